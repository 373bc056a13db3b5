"""Training the norms alone."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import matches, nearest, only, paths

NORMS = ("*norm/scale", "*norm/bias")


@register(
    "transfer",
    paper="Zhao et al. 2023, arXiv:2312.11420 (LayerNorm tuning)",
    example=lambda problem: norm_tuning(),
    neutral="it chooses which leaves learn and has no strength to set to zero",
)
def norm_tuning(
    norms: tuple[str, ...] = NORMS,
    head: tuple[str, ...] = ("*/head/*",),
    *,
    name: str = "transfer.norm_tuning",
) -> Method:
    """The scales and shifts of the normalisation layers learn, and the task layer; it is peft's ``LN_TUNING``.

    Args:
      norms: patterns over parameter paths; at least one must fit (RMS norms have no bias).
      head: patterns of what learns in full besides; empty for a model without a new head.
      name: the method's name.

    Raises:
      ValueError: at init, where no pattern of `norms`, or one of `head`, fits anything, with the nearest paths.

    Example:
      >>> keep = norm_tuning().trainable
      >>> keep("model/layers/0/attention_norm/scale", None), keep("model/layers/0/mlp/up/bias", None)
      (True, False)
    """
    norms, head = ((one,) if isinstance(one, str) else tuple(one) for one in (norms, head))

    def surgery(params, key):
        known = paths({"model": params["model"]})
        if not any(matches(path, norms) for path in known):
            raise ValueError(
                f"{name}: no parameter matches {', '.join(norms)}; the nearest are {nearest(norms[0], known)}"
            )
        require(params, head, name)
        return params

    return Method(name=name, surgery=surgery, trainable=only(*norms, *head))
