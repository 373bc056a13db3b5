"""The learned temperature of a contrastive loss, held."""

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.multimodal.towers import LARGEST_SCALE, held_at


@register(
    "multimodal",
    paper="Radford et al. 2021, arXiv:2103.00020, section 2.5",
    example=lambda problem: temperature(2.8, path="model/*norm/scale"),
    neutral=Neutral({"largest": float("inf")}),
)
def temperature(
    largest: float = LARGEST_SCALE, path: str = "*/log_scale", *, name: str = "multimodal.temperature"
) -> Method:
    """Holds the logits' scale of a model with two towers: ``log_scale ← min(log_scale, log(largest))``.

    CLIP's clamp, for models that bring their own ``log_scale``, such as a loaded CLIP; `clip` and its kin hold theirs
    themselves. The temperature is ``1 / scale``.

    Args:
      largest: scale, a number in ``hyper``.
      path: pattern of the parameters' paths that are logarithms of a scale.
      name: the method's name.

    Example:
      >>> temperature()
      Method('multimodal.temperature', largest=100)
    """
    return Method(
        name=name,
        hyper={"largest": largest},
        update=held_at((path,), lambda event: jnp.log(event.hyper[name]["largest"])),
    )
