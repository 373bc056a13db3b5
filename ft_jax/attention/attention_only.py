"""Fine-tuning the attention layers alone."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import only


@register(
    "attention",
    paper="Touvron et al. 2022, arXiv:2203.09795, section 4",
    example=lambda problem: attention_only(also=("*/head/*",)),
    neutral="it chooses which leaves learn and has no strength to set to zero",
)
def attention_only(
    targets: tuple[str, ...] = ("*/attention/*",), also: tuple[str, ...] = (), *, name: str = "attention.attention_only"
) -> Method:
    """The weights of the attention layers learn, and the rest of the model stays as it is.

    About a third of a transformer's layers, with the accuracy of full fine-tuning on small sets, and the
    feed-forward halves can be shared between tasks.

    Args:
      targets: patterns over parameter paths of what is attention.
      also: patterns of leaves that learn besides, such as ``("*/head/*",)``.
      name: the method's name.

    Raises:
      ValueError: at init, where a pattern fits nothing, with the nearest paths.

    Example:
      >>> keep = attention_only(also=("*/head/*",)).trainable
      >>> [keep(f"model/{path}", None) for path in ("layers/0/attention/key/bias", "layers/0/mlp/up/kernel")]
      [True, False]
    """
    patterns = tuple(
        pattern for given in (targets, also) for pattern in ((given,) if isinstance(given, str) else tuple(given))
    )

    def surgery(params, key):
        require(params, patterns, name)
        return params

    return Method(name=name, surgery=surgery, trainable=only(*patterns))
