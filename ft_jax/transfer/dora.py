"""Weight-decomposed low-rank adaptation."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, fold_bias, materialize, matmul, matmuls, shape
from ft_jax.core.weights.low_rank import two_passes
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.dropout import check_rate, with_dropout
from ft_jax.transfer.lora import kaiming
from ft_jax.transfer.strength import NONE, Strength


@operator("owner")
class Directional(Weight):
    """``magnitude / ‖w‖ · w`` by columns, with ``w = base + scale · a @ b`` and ``‖w‖`` a constant to the gradient.

    Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353, equations 5 and 11. A column
    holds one output's weights; the bias is not scaled.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    magnitude: Float[Array, " outputs"]
    scale: Float[Array, ""]
    owner: str = ""

    def matmul(self, x, bias=None):
        return self.matmuls([self], x, [bias])[0]

    @classmethod
    def matmuls(cls, weights, x, biases):
        bases = matmuls([weight.base for weight in weights], x, [None] * len(weights))
        updates = two_passes(x, [weight._factors() for weight in weights])
        products = []
        for weight, base, update, bias in zip(weights, bases, updates, biases, strict=True):
            y = weight.gain().astype(x.dtype) * (base + update)
            products.append(y if bias is None else y + fold_bias(weight.base, bias).astype(y.dtype))
        return products

    def update(self, x):
        """What is added to the base's output for `x` alone, as dropout needs it."""
        gain = self.gain().astype(x.dtype)
        return (gain - 1.0) * matmul(self.base, x) + gain * two_passes(x, [self._factors()])[0]

    def materialize(self):
        base = materialize(self.base)
        return (self.gain() * (base + self.scale * (self.a @ self.b))).astype(base.dtype)

    def gain(self) -> Float[Array, " outputs"]:
        """``magnitude / ‖base + scale · a @ b‖``, the norm out of the gradient's sight (section 4.3)."""
        base, scale, a, b = jax.lax.stop_gradient((self.base, self.scale, self.a, self.b))
        direction = materialize(base).astype(jnp.float32) + scale * (a @ b)
        return self.magnitude / jnp.linalg.norm(direction, axis=0)

    def _factors(self):
        return self.a, self.b, self.scale

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Liu et al. 2024, arXiv:2402.09353, equations 5 and 11",
    example=lambda problem: dora(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def dora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    stabilised: bool = False,
    dropout: float | None = None,
    name: str = "transfer.dora",
) -> Method:
    """Learns the length of each weight's columns apart from their direction, the direction by a low-rank update.

    A weight ``w₀ [inputs, outputs]`` becomes ``magnitude / ‖w‖ · w`` with ``w = w₀ + alpha / rank · a @ b``, norms
    over the inputs and constant to the gradient (section 4.3). ``magnitude [outputs]`` starts at ``‖w₀‖`` and
    ``b`` at zero, so training starts at the pretrained function. Over a quantised weight it is QDoRA.

    Args:
      rank, alpha, targets, also, ranks, alphas: as in `ft_jax.transfer.lora`.
      stabilised: scales by ``alpha / √rank``, as `ft_jax.transfer.rslora`.
      dropout: the rate at which what the adapter's part reads is zeroed in training, data in ``hyper``; None for none.
      name: the method's name.

    Raises:
      ValueError: a rank below 1, a dropout outside of [0, 1); at init, a rank above a weight's smaller side, or
        patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = dora(rank=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.magnitude.tolist()
      [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    strength = Strength(name, rank, alpha, ranks, alphas, power=0.5 if stabilised else 1.0)
    numbers = {"alpha": alpha, **check_rate(dropout, name)}

    def decompose(path, matrix, key):
        scale = strength.scale(path)
        base, a, b = kaiming(path, matrix, strength.rank_of(path, matrix), scale, key)
        magnitude = jnp.linalg.norm(materialize(matrix).astype(jnp.float32), axis=0)
        return Directional(base=base, a=a, b=b, magnitude=magnitude, scale=jnp.float32(scale), owner=name)

    view = with_dropout(strength.shown, dropout, name)
    return adapter(name, decompose, ("a", "b", "magnitude"), targets, also, hyper=numbers, view=view)
