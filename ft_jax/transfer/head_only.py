"""Training the task layer alone."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import only


@register(
    "transfer",
    paper="Donahue et al. 2014, arXiv:1310.1531 (a classifier on frozen features)",
    example=lambda problem: head_only(),
    neutral="it chooses which leaves learn and has no strength to set to zero",
)
def head_only(head: tuple[str, ...] = ("*/head/*",), *, name: str = "transfer.head_only") -> Method:
    """The task layer learns, the backbone's features stay as they are (a linear probe).

    Args:
      head: patterns over parameter paths; what fits learns, the rest of the model does not. Leaves that
        another method of the composition asks for (an adapter's) learn as well.
      name: the method's name.

    Raises:
      ValueError: at init, where a pattern fits nothing, with the nearest paths.

    Example:
      >>> keep = head_only().trainable
      >>> keep("model/head/kernel", None), keep("model/layers/0/mlp/up/kernel", None)
      (True, False)
    """
    head = (head,) if isinstance(head, str) else tuple(head)

    def surgery(params, key):
        require(params, head, name)
        return params

    return Method(name=name, surgery=surgery, trainable=only(*head))
