"""A locked image tower."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import never


@register(
    "multimodal",
    paper="Zhai et al. 2021, arXiv:2111.07991, section 3",
    example=lambda problem: lit("model/layers/*"),
    neutral="it chooses which leaves stay as they are and has no strength to set to zero",
)
def lit(*locked: str, name: str = "multimodal.lit") -> Method:
    """The image tower stays as it was pretrained, and the text tower learns to read out of it.

    Around `clip` or `siglip`, whose model is the image tower, nothing of ``model/`` learns: the default. Of a model
    with both towers, such as a loaded CLIP, name the image's: ``lit("model/vision/*")``. Leaves that another method of
    the composition asks for (an adapter's) learn as well.

    Args:
      locked: patterns over parameter paths; ``model/*`` where none is given.
      name: the method's name.

    Raises:
      ValueError: at init, where a pattern fits nothing, with the nearest paths.

    Example:
      >>> keep = lit("model/vision/*").trainable
      >>> keep("model/vision/norm/scale", None), keep("model/text/norm/scale", None)
      (False, None)
    """
    patterns = locked or ("model/*",)

    def surgery(params, key):
        require(params, patterns, name)
        return params

    return Method(name=name, surgery=surgery, trainable=never(*patterns))
