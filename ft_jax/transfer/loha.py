"""Low-rank Hadamard products."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.strength import NONE, Strength, uniform


@operator("owner")
class Hadamard(Weight):
    """``base + scale · (first_a @ first_b) * (second_a @ second_b)``, whose rank is up to the square of the factors'.

    Hyeon-Woo, Ye-Bin and Oh 2021, "FedPara: Low-Rank Hadamard Product", arXiv:2108.06098, section 2.2.
    """

    base: Any
    first_a: Float[Array, "inputs rank"]
    first_b: Float[Array, "rank outputs"]
    second_a: Float[Array, "inputs rank"]
    second_b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    owner: str = ""

    def matmul(self, x, bias=None):
        return matmul(self.base, x, bias) + x @ self.change().astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        return base + self.change().astype(base.dtype)

    def change(self) -> Float[Array, "inputs outputs"]:
        """What is added to the base."""
        return self.scale * (self.first_a @ self.first_b) * (self.second_a @ self.second_b)

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Hyeon-Woo, Ye-Bin and Oh 2021, arXiv:2108.06098, section 2.2",
    example=lambda problem: loha(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def loha(
    rank: int = 8,
    alpha: float = 8.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    name: str = "transfer.loha",
) -> Method:
    """Learns an update of each chosen projection that is the elementwise product of two low-rank ones.

    A weight ``w [inputs, outputs]`` becomes
    ``w + alpha / rank · (first_a @ first_b) * (second_a @ second_b)``. ``second_a`` starts at zero and the others
    Kaiming uniform, as in peft, so training starts at the pretrained function.

    Args:
      rank: of each of the two; the product's is up to its square. It may be above a weight's width.
      alpha, targets, also, ranks, alphas: as in `ft_jax.transfer.lora`.
      name: the method's name.

    Raises:
      ValueError: a rank below 1; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = loha(rank=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.first_a.shape, float(jnp.abs(kernel.change()).max())
      ((4, 2), 0.0)
    """
    strength = Strength(name, rank, alpha, ranks, alphas)

    def factors(path, matrix, key):
        (inputs, outputs), own = shape(matrix), strength.rank_of(path, matrix, limit=False)
        keys = jax.random.split(key, 3)
        return Hadamard(
            base=matrix,
            first_a=uniform(keys[0], (inputs, own), inputs),
            first_b=uniform(keys[1], (own, outputs), own),
            second_a=jnp.zeros((inputs, own), jnp.float32),
            second_b=uniform(keys[2], (own, outputs), own),
            scale=jnp.float32(strength.scale(path)),
            owner=name,
        )

    fields = ("first_a", "first_b", "second_a", "second_b")
    return adapter(name, factors, fields, targets, also, hyper={"alpha": alpha}, view=strength.shown)
