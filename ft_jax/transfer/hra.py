"""Householder reflection adaptation: weights are reflected along a few learned directions."""

import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.strength import uniform


@operator("orthogonal", "owner")
class Reflected(Weight):
    """``h_rank @ … @ h_1 @ base`` with the reflections ``h_i = 1 - 2 n_i n_iᵀ``, ``n_i = u_i / |u_i|``.

    Yuan, Liu and Xu 2024, "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection
    Adaptation", arXiv:2405.17484, equation 4, transposed to this library's ``[inputs, outputs]``. The product differs
    from one by a matrix of rank ``rank`` and is orthogonal. With ``orthogonal`` the ``n_i`` are what Gram and Schmidt
    make of ``u`` (the paper's λ = ∞), and the product is ``1 - 2 n nᵀ``.
    """

    base: Any
    u: Float[Array, "inputs rank"]
    orthogonal: bool = False
    owner: str = ""

    def matmul(self, x, bias=None):
        return matmul(self.base, self._reflected(x), bias)

    def materialize(self):
        base = materialize(self.base)
        turned = self._reflected(jnp.eye(base.shape[0])) @ base.astype(jnp.float32)
        return turned.astype(base.dtype)

    def directions(self) -> Float[Array, "inputs rank"]:
        """The unit vectors along which the inputs are reflected."""
        columns = self.u.astype(jnp.float32)
        if not self.orthogonal:
            return columns / _length(columns)
        found = jnp.zeros((columns.shape[0], 0))
        for index in range(columns.shape[1]):
            column = columns[:, index : index + 1]
            # One after another, which loses less than all at once.
            for other in range(index):
                one = found[:, other : other + 1]
                column = column - one * (one.T @ column)
            found = jnp.concatenate([found, column / _length(column)], axis=1)
        return found

    def _reflected(self, x):
        """``x @ h_rank @ … @ h_1``."""
        n = self.directions().astype(x.dtype)
        if self.orthogonal:
            return x - 2 * (x @ n) @ n.T
        return functools.reduce(
            lambda x, one: x - 2 * (x @ one)[..., None] * one, [n[:, i] for i in reversed(range(n.shape[1]))], x
        )

    @property
    def shape(self):
        return shape(self.base)


def _length(columns):
    return jnp.maximum(jnp.linalg.norm(columns, axis=0, keepdims=True), 1e-12)


@register(
    "transfer",
    paper="Yuan, Liu and Xu 2024, arXiv:2405.17484, equation 4",
    example=lambda problem: hra(rank=2, also=("*/head/*",)),
    neutral="it replaces what learns by its reflections, so no number of it trains like the step without it",
)
def hra(
    rank: int = 8,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    orthogonal: bool = False,
    name: str = "transfer.hra",
) -> Method:
    """Reflects what each chosen projection reads along learned directions, between low-rank and orthogonal adaptation.

    A weight ``w [inputs, outputs]`` becomes ``h_rank @ … @ h_1 @ w`` with ``h_i = 1 - 2 u_i u_iᵀ / |u_i|²``. The
    directions start in equal pairs, whose reflections undo each other, so training starts at the pretrained function.

    Args:
      rank: how many reflections, even; it may be above a weight's width.
      targets, also: as in `ft_jax.transfer.lora`.
      orthogonal: whether the directions are kept at right angles by Gram and Schmidt's process (the paper's λ = ∞,
        peft's ``apply_GS``). They then can't start in pairs and training starts elsewhere than at the pretrained
        function: at its reflection along random directions.
      name: the method's name.

    Raises:
      ValueError: a rank below 1, an odd one that is not `orthogonal`; at init, patterns that fit nothing, or more
        orthogonal directions than a weight has inputs.

    Example:
      >>> import jax
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = hra(rank=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.u.shape, bool(jnp.allclose(materialize(kernel), 1.0))
      ((4, 2), True)
    """
    if rank < 1:
        raise ValueError(f"{name} has rank {rank}; give it at least 1")
    if rank % 2 and not orthogonal:
        raise ValueError(f"{name} has rank {rank}, and its directions start in pairs; use {rank + 1}")
    return reflections(rank, targets, also, orthogonal, name)


def reflections(rank: int, targets, also: tuple[str, ...], orthogonal: bool, name: str) -> Method:
    """`hra` of any rank; with an odd one the last direction has no pair, and is to be filled from a file."""

    def reflect(path, matrix, key):
        inputs = shape(matrix)[0]
        if orthogonal and rank > inputs:
            raise ValueError(
                f"{name} has rank {rank}, but {path} reads {inputs}, where no more directions are at right angles; use "
                f"at most {inputs}"
            )
        pairs = uniform(key, (inputs, rank if orthogonal else -(-rank // 2)), rank)
        u = pairs if orthogonal else jnp.repeat(pairs, 2, axis=1)[:, :rank]
        return Reflected(matrix, u, orthogonal, name)

    return adapter(name, reflect, ("u",), targets, also)
