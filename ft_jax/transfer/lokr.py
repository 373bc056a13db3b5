"""Low-rank Kronecker products."""

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


@operator("rank", "factor", "owner")
class Kronecker(Weight):
    """``base + scale · kron(left, right)``, each side a full matrix or a product of two factors.

    Yeh et al. 2023, "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
    arXiv:2309.14859, section 3.2. The product with ``x`` is formed side by side, never as a matrix of the base's
    size. What a side does not use is None.
    """

    base: Any
    left: Float[Array, "m l"] | None
    left_a: Float[Array, "m rank"] | None
    left_b: Float[Array, "rank l"] | None
    right: Float[Array, "n k"] | None
    right_a: Float[Array, "n rank"] | None
    right_b: Float[Array, "rank k"] | None
    scale: Float[Array, ""]
    rank: int = 0
    factor: int = -1
    owner: str = ""

    def matmul(self, x, bias=None):
        left, right = (side.astype(x.dtype) for side in self.sides())
        pieces = x.reshape(*x.shape[:-1], left.shape[0], right.shape[0])
        update = jnp.einsum("...ml,mo->...ol", pieces @ right, left)
        return matmul(self.base, x, bias) + self.scale.astype(x.dtype) * update.reshape(*x.shape[:-1], -1)

    def materialize(self):
        base = materialize(self.base)
        return base + (self.scale * jnp.kron(*self.sides())).astype(base.dtype)

    def sides(self) -> tuple[Array, Array]:
        """``(left [m, l], right [n, k])`` with ``inputs = m · n`` and ``outputs = l · k``."""
        left = self.left_a @ self.left_b if self.left is None else self.left
        right = self.right_a @ self.right_b if self.right is None else self.right
        return left, right

    @property
    def shape(self):
        return shape(self.base)


LEARNED = ("left", "left_a", "left_b", "right", "right_a", "right_b")


@register(
    "transfer",
    paper="Yeh et al. 2023, arXiv:2309.14859, section 3.2",
    example=lambda problem: lokr(rank=2, alpha=4.0, factor=4, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def lokr(
    rank: int = 8,
    alpha: float = 8.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    factor: int = -1,
    both: bool = False,
    name: str = "transfer.lokr",
) -> Method:
    """Learns an update of each chosen projection that is the Kronecker product of a small and a low-rank matrix.

    A weight ``w [m · n, l · k]`` becomes ``w + alpha / rank · kron(left, right)`` with ``left [m, l]`` and
    ``right = right_a [n, rank] @ right_b [rank, k]``; a side is one full matrix where the rank is at least half its
    longer edge. ``left`` (or ``left_b``) starts at zero and the rest Kaiming uniform, as in peft, so training
    starts at the pretrained function.

    Args:
      rank: of the right side, and of the left one where `both`. It may be above a weight's width.
      alpha, targets, also, ranks, alphas: as in `ft_jax.transfer.lora`.
      factor: the left side's edges are the divisors of the widths nearest to it from below, see `factorized`; -1
        for those nearest to the square root.
      both: the left side is a product of two factors as well.
      name: the method's name.

    Raises:
      ValueError: a rank below 1, a factor that is neither -1 nor positive; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((16, 64))}}}}
      >>> kernel = lokr(rank=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.left.shape, kernel.right_a.shape, kernel.right_b.shape
      ((4, 8), (4, 2), (2, 8))
    """
    if factor != -1 and factor < 1:
        raise ValueError(f"{name} has factor {factor}; give a positive number, or -1 for near the square root")
    strength = Strength(name, rank, alpha, ranks, alphas)

    def factors(path, matrix, key):
        (m, n), (left, right) = (factorized(width, factor) for width in shape(matrix))
        own, keys = strength.rank_of(path, matrix, limit=False), jax.random.split(key, 3)
        parts = dict.fromkeys(LEARNED)
        if both and own < max(m, left) / 2:
            parts["left_a"], parts["left_b"] = uniform(keys[0], (m, own), m), jnp.zeros((own, left), jnp.float32)
        else:
            parts["left"] = jnp.zeros((m, left), jnp.float32)
        if own < max(n, right) / 2:
            parts["right_a"], parts["right_b"] = uniform(keys[1], (n, own), n), uniform(keys[2], (own, right), own)
        else:
            parts["right"] = uniform(keys[1], (n, right), n)
        scale = jnp.float32(strength.scale(path))
        return Kronecker(base=matrix, **parts, scale=scale, rank=own, factor=factor, owner=name)

    return adapter(name, factors, LEARNED, targets, also, hyper={"alpha": alpha}, view=strength.shown)


def factorized(width: int, factor: int = -1) -> tuple[int, int]:
    """`width` as a product of two numbers, the smaller first: LyCORIS's ``factorization``.

    Args:
      width: to be divided.
      factor: taken where it divides; else the pair nearest to a square whose smaller number is at most it.

    Example:
      >>> factorized(128), factorized(128, 4), factorized(127), factorized(250, 100)
      ((8, 16), (4, 32), (1, 127), (10, 25))
    """
    if factor > 0 and width % factor == 0:
        return factor, width // factor
    limit = width if factor == -1 else factor
    small, large = 1, width
    for divisor in range(2, int(width**0.5) + 1):
        if width % divisor == 0 and divisor <= limit:
            small, large = divisor, width // divisor
    return small, large
