"""Training the biases alone."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import only


@register(
    "transfer",
    paper="Ben Zaken et al. 2021, arXiv:2106.10199, section 3",
    # The tiny decoder of the laws has no biases; its norms' scales are the vectors that it has.
    example=lambda problem: bitfit(biases=("*norm/scale",)),
    neutral="it chooses which leaves learn and has no strength to set to zero",
)
def bitfit(
    biases: tuple[str, ...] = ("*/bias",), head: tuple[str, ...] = ("*/head/*",), *, name: str = "transfer.bitfit"
) -> Method:
    """The bias vectors of every projection and norm learn, and the task layer; all matrices stay as they are.

    Args:
      biases: patterns over parameter paths. The paper's variant of the query's and the MLP's biases is
        ``("*attention/query/bias", "*mlp/up/bias")``.
      head: patterns of what learns in full besides; empty for a model without a new head.
      name: the method's name.

    Raises:
      ValueError: at init, where a pattern fits nothing (a model without biases), with the nearest paths.

    Example:
      >>> keep = bitfit().trainable
      >>> keep("model/layers/0/mlp/up/bias", None), keep("model/layers/0/mlp/up/kernel", None)
      (True, False)
    """
    biases, head = ((one,) if isinstance(one, str) else tuple(one) for one in (biases, head))

    def surgery(params, key):
        require(params, (*biases, *head), name)
        return params

    return Method(name=name, surgery=surgery, trainable=only(*biases, *head))
