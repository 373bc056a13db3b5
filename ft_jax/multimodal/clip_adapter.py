"""A small residual network on a frozen model's features."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import adapt, as_targets, map_operators, owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, matmul, shape
from ft_jax.core.weights.operator import operator


@operator("owner")
class ResidualAdapter(Weight):
    """A projection whose outputs go through a residual bottleneck, with the length that they had."""

    base: Any
    down: Float[Array, "width hidden"]
    up: Float[Array, "hidden width"]
    ratio: Float[Array, ""]
    owner: str = ""

    mergeable = False

    def matmul(self, x, bias=None):
        features = matmul(self.base, x, bias)
        squares = jnp.sum(jnp.square(features.astype(jnp.float32)), axis=-1, keepdims=True)
        length = jnp.sqrt(jnp.maximum(squares, 1e-24)).astype(features.dtype)
        direction = features / length
        down, up, ratio = (leaf.astype(features.dtype) for leaf in (self.down, self.up, self.ratio))
        new = jax.nn.relu(jax.nn.relu(direction @ down) @ up)
        mixed = ratio * new + (1 - ratio) * direction
        squares = jnp.sum(jnp.square(mixed.astype(jnp.float32)), axis=-1, keepdims=True)
        return mixed * jax.lax.rsqrt(jnp.maximum(squares, 1e-24)).astype(mixed.dtype) * length

    def materialize(self):
        raise ValueError(f"{self.owner} is no matrix and can't be merged; keep the run, or export the base")

    @property
    def shape(self):
        return shape(self.base)


@register(
    "multimodal",
    paper="Gao et al. 2021, arXiv:2110.04544, equations 4 and 6",
    example=lambda problem: clip_adapter(targets="*/head/kernel", reduction=2),
    neutral="the model is frozen and at ratio 0 nothing of it moves",
    pretrained=False,
    mergeable=False,
)
def clip_adapter(
    reduction: int = 4,
    ratio: float = 0.2,
    targets: str = "*/image_projection/kernel",
    *,
    name: str = "multimodal.clip_adapter",
) -> Method:
    """Learns ``f ← ratio · relu(relu(f W_1) W_2) + (1 - ratio) · f`` on a frozen CLIP's image features.

    Features ``f`` are taken at length 1, and the adapted ones get the length back that they had. With
    ``supervised(zero_shot(model.apply, prompts))`` it is CLIP-Adapter of the images, where the classes' prompts are the
    head.

    Args:
      reduction: the hidden layer is so many times narrower than the features.
      ratio: of what is new, a number in ``hyper``.
      targets: pattern of the projections whose outputs are adapted; ``"*/text_projection/kernel"`` for the texts'.
      name: the method's name.

    Raises:
      ValueError: a reduction below 1, or, at init, one above the features' width; where no weight matches.

    Example:
      >>> clip_adapter()
      Method('multimodal.clip_adapter', ratio=0.2)
    """
    if reduction < 1:
        raise ValueError(f"{name} has reduction {reduction}; give a whole number of at least 1")

    def build(path, weight, key):
        width = shape(weight)[1]
        if reduction > width:
            raise ValueError(f"{name} has reduction {reduction} and {path} gives {width} features; make it smaller")
        first, second = jax.random.split(key)
        hidden = width // reduction
        down = jax.random.normal(first, (width, hidden)) * math.sqrt(2 / width)
        up = jax.random.normal(second, (hidden, width)) * math.sqrt(2 / hidden)
        return ResidualAdapter(weight, down, up, jnp.float32(ratio), name)

    def surgery(params, key):
        return adapt(params, as_targets(targets), build, key, name)

    def view(params, context):
        now = context.hyper[name]["ratio"]
        return map_operators(lambda weight: dataclasses.replace(weight, ratio=now), params, name)

    return Method(name=name, hyper={"ratio": ratio}, surgery=surgery, view=view, trainable=owned(name, ("down", "up")))
