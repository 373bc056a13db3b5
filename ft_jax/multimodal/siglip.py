"""Pairwise sigmoid loss over two towers: every image with every text is a yes or a no of its own."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.core.state import Ungathered
from ft_jax.multimodal.clip import paired_with_itself, twin
from ft_jax.multimodal.towers import beside


@register(
    "multimodal",
    paper="Zhai et al. 2023, arXiv:2303.15343, equation 1 and section 3.3",
    needs=("paired",),
    example=lambda problem: twin(siglip, problem),
    batch=paired_with_itself,
    neutral=Neutral({"weight": 0.0}),
)
def siglip(
    apply: Callable,
    params: Params,
    width: int,
    other: str = "paired",
    weight: float = 1.0,
    *,
    inputs: tuple[int, int] | None = None,
    name: str = "multimodal.siglip",
) -> Method:
    """Learns a second tower beside the model by a sigmoid for each image with each text.

    With unit embeddings ``x`` and ``y`` as in `clip`, adds ``-weight / n · Σ_ij log σ(z_ij (scale · x_i · y_j + b))``
    with ``z_ij`` 1 on the diagonal and -1 elsewhere. ``log_scale`` learns from ``log(10)`` and is held at ``log(100)``
    at most, ``logit_bias`` learns from -10.

    Over mapped devices no rows are gathered: the second tower's embeddings go around a ring, and each device compares
    its own with those at hand (the paper's figure 1). No more than one device's block of logits is held at a time.
    Over a mesh the compiler decides.

    Args:
      apply, params, width, other, weight, inputs, name: as for `clip`.

    Raises:
      KeyError, ValueError: as for `clip`.

    Example:
      >>> siglip(lambda params, batch, key: None, {}, width=64)
      Method('multimodal.siglip', weight=1)
    """

    def value(pair, context):
        own = pair.own
        shared = (jnp.exp(own["log_scale"]), own["logit_bias"])
        return context.couple(Ungathered(sigmoid_ring), (pair.x, pair.y), shared, pair.counts)

    scalars = {"log_scale": math.log(10.0), "logit_bias": -10.0}
    return beside(name, apply, params, width, other, inputs, value, weight=weight, scalars=scalars)


def sigmoid_contrastive(
    x: Float[Array, "batch width"],
    y: Float[Array, "batch width"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """``-1 / n · Σ_ij log σ(z_ij (scale · x_i · y_j + bias))`` of unit embeddings, pair by pair, in nats.

    Example:
      >>> round(float(sigmoid_contrastive(jnp.eye(2), jnp.eye(2), 0.0, 0.0)), 4)
      1.3863
    """
    return sigmoid_ring((x, y), (scale, bias), jnp.ones(x.shape[0]), None)


def sigmoid_ring(rows, shared, counts, axis) -> Float[Array, ""]:
    """`sigmoid_contrastive` of this device's x with everyone's y, those of count 0 left out: for `Ungathered`."""
    x, y = rows
    ours, others = (jax.checkpoint(functools.partial(_block, signs)) for signs in (2 * jnp.eye(x.shape[0]) - 1, -1.0))
    total, mean = ours(x, counts, *shared, y, counts), jnp.mean(counts)
    if axis is not None:
        devices = jax.lax.psum(1, axis)
        onwards = [(device, (device + 1) % devices) for device in range(devices)]

        def body(carry, _):
            total, theirs = carry
            theirs = jax.lax.ppermute(theirs, axis, onwards)
            return (total + others(x, counts, *shared, *theirs), theirs), None

        (total, _), _ = jax.lax.scan(body, (total, (y, counts)), length=devices - 1)
        mean = jax.lax.pmean(mean, axis)
    return total / x.shape[0] / jnp.maximum(mean, 1e-9)


def _block(signs, x, counts, scale, bias, y, their_counts):
    """``-Σ log σ(± logits)`` of the rows of `x` with those of `y`, which are their own pairs or another device's."""
    values = -jax.nn.log_sigmoid(signs * (scale * x @ y.T + bias))
    return jnp.sum(counts[:, None] * (their_counts > 0) * values)
