"""Low-rank adaptation of a weight's principal part, the rest frozen."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import materialize
from ft_jax.transfer.lora import low_rank
from ft_jax.transfer.nesting import innermost, like
from ft_jax.transfer.strength import NONE, Strength


@register(
    "transfer",
    paper="Meng, Wang and Zhang 2024, arXiv:2404.02948, equations 2 to 4",
    example=lambda problem: pissa(rank=2, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def pissa(
    rank: int = 8,
    alpha: float | None = None,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    iterations: int | None = None,
    dropout: float | None = None,
    forward: str = "auto",
    name: str = "transfer.pissa",
) -> Method:
    """LoRA that starts at a weight's largest singular directions and freezes the residual.

    With ``w = u @ diag(s) @ vᵀ`` and ``scale = alpha / rank``, ``a = u[:, :rank] √(s / scale)``,
    ``b = √(s / scale) v[:, :rank]ᵀ`` and the frozen base is ``w - scale · a @ b``, so training starts at the
    pretrained function. A quantised weight's residual is quantised again (QPiSSA); quantising after it,
    ``compose(quantize(), pissa())``, never rounds the principal part.

    Args:
      rank, targets, also, ranks, alphas, dropout, forward: as in `ft_jax.transfer.lora`.
      alpha: as in `ft_jax.transfer.lora`; the rank where None, as in the paper.
      iterations: None for an exact decomposition; else that many power iterations of a randomised one, which is
        the paper's fast start (Halko et al. 2011, arXiv:0909.4061).
      name: the method's name.

    Raises:
      ValueError: a negative number of iterations; else as `ft_jax.transfer.lora`.

    Example:
      >>> params = {"model": {"up": {"kernel": jnp.diag(jnp.array([4.0, 1.0]))}}}
      >>> kernel = pissa(rank=1).surgery(params, jax.random.key(0))["model"]["up"]["kernel"]
      >>> jnp.abs(jnp.round(kernel.a @ kernel.b, 4)).tolist(), jnp.abs(jnp.round(kernel.base, 4)).tolist()
      ([[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]])
    """
    if iterations is not None and iterations < 0:
        raise ValueError(f"{name} has {iterations} iterations; give 0 or more, or None for an exact decomposition")
    strength = Strength(name, rank, float(rank) if alpha is None else alpha, ranks, alphas)

    def start(path, weight, rank, scale, key):
        dense = materialize(weight).astype(jnp.float32)
        a, b = principal(dense, rank, iterations, key)
        a, b = a * scale**-0.5, b * scale**-0.5
        return like(weight, dense - scale * (a @ b)), a, b

    return low_rank(strength, start, targets, also, dropout, forward, innermost)


@register(
    "transfer",
    paper="Büyükakyüz 2024, arXiv:2406.01775, section 3",
    example=lambda problem: olora(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def olora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    dropout: float | None = None,
    forward: str = "auto",
    name: str = "transfer.olora",
) -> Method:
    """LoRA whose second factor starts with orthonormal rows, out of a weight's QR decomposition.

    With ``wᵀ = q @ r``, ``b = q[:, :rank]ᵀ``, ``a = r[:rank]ᵀ`` and the frozen base is ``w - alpha / rank · a @ b``,
    so training starts at the pretrained function.

    Args:
      rank, alpha, targets, also, ranks, alphas, dropout, forward, name: as in `ft_jax.transfer.lora`.

    Raises:
      ValueError: as `ft_jax.transfer.lora`.

    Example:
      >>> params = {"model": {"up": {"kernel": jnp.arange(12.0).reshape(3, 4)}}}
      >>> kernel = olora(rank=2).surgery(params, jax.random.key(0))["model"]["up"]["kernel"]
      >>> jnp.abs(jnp.round(kernel.b @ kernel.b.T, 4)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    strength = Strength(name, rank, alpha, ranks, alphas)

    def start(path, weight, rank, scale, key):
        dense = materialize(weight).astype(jnp.float32)
        q, r = jnp.linalg.qr(dense.T)
        a, b = r[:rank].T, q[:, :rank].T
        return like(weight, dense - scale * (a @ b)), a, b

    return low_rank(strength, start, targets, also, dropout, forward, innermost)


def principal(
    matrix: Float[Array, "inputs outputs"], rank: int, iterations: int | None, key: jax.Array
) -> tuple[Float[Array, "inputs rank"], Float[Array, "rank outputs"]]:
    """``(u √s, √s vᵀ)`` of the `rank` largest singular values; randomised where `iterations` is not None.

    The randomised one projects on ``(w wᵀ)ⁱ w g`` for a normal ``g`` of ``rank + 8`` columns, orthonormalised after
    every product (Halko et al. 2011, arXiv:0909.4061, algorithms 4.4 and 5.1).

    Example:
      >>> u, v = principal(jnp.diag(jnp.array([9.0, 4.0, 1.0])), 2, 4, jax.random.key(0))
      >>> jnp.abs(jnp.round(u @ v, 3)).tolist()
      [[9.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if iterations is None:
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    else:
        columns = min(rank + 8, *matrix.shape)
        q = jnp.linalg.qr(matrix @ jax.random.normal(key, (matrix.shape[1], columns)))[0]
        for _ in range(iterations):
            q = jnp.linalg.qr(matrix @ jnp.linalg.qr(matrix.T @ q)[0])[0]
        u, s, vt = jnp.linalg.svd(q.T @ matrix, full_matrices=False)
        u = q @ u
    root = jnp.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]
