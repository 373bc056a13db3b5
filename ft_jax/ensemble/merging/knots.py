"""Merges in the singular vectors that all tasks share."""

from collections.abc import Sequence

import numpy as np

from ft_jax.ensemble.merging.rule import Factors, Piece, Rule, merging_rule, within
from ft_jax.ensemble.merging.spectral import mean_of_vectors
from ft_jax.ensemble.merging.task_arithmetic import ties

SUPPORTED = 1e-5
"""Singular values below this share of the largest are none."""


@merging_rule
def knots(density: float = 0.2, scale: float = 1.0, normalize: bool = True) -> Rule:
    """Brings all tasks to one basis before TIES merges them there (Stoica et al. 2025, arXiv:2410.19735).

    Task matrices side by side, ``[Δ_1 … Δ_n] = U Σ [V_1 … V_n]ᵀ``, share their left singular vectors, and ``Σ V_kᵀ`` is
    what task k says in them. The result is ``base + scale · U · ties(Σ V_1ᵀ, …, Σ V_nᵀ)``, trimmed matrix by matrix
    (the authors' code trims over the whole model). Without a trim it differs from `ties` all the same: signs are
    elected in the shared directions and not of each weight. LoRA adapters merge by their factors, ``Δ_k = B_k A_k``:
    the decomposition is that of a square of the sum of the ranks, and the result, whose rank that is, is exact. Tensors
    that are no matrices go by the mean of their task vectors.

    Args:
      density: the share of ``Σ V_kᵀ`` that stays.
      scale: of the merged task matrix.
      normalize: as in `ties`.

    Raises:
      ValueError: a density outside (0, 1].

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.diag([4.0, 0.0])}, {"w": np.diag([0.0, 2.0])}]
      >>> merged = merging.merge_trees(merging.knots(density=1.0), models, base={"w": np.zeros((2, 2))})["w"]
      >>> np.abs(merged).round(4).tolist()
      [[4.0, 0.0], [0.0, 2.0]]
    """
    within("knots", "density", density, 0.0, 1.0)
    inner = ties(density=density, scale=scale, normalize=normalize)

    def tied(name: str, coordinates: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return inner(Piece(name, coordinates, weights, np.zeros_like(coordinates[0])))

    def combine(piece: Piece):
        if piece.base.ndim != 2:
            return mean_of_vectors(piece, scale)
        u, s, vt = np.linalg.svd(np.concatenate(list(piece.vectors), axis=1), full_matrices=False)
        u, coordinates = _supported(u, s, vt)
        parts = np.stack(np.split(coordinates, len(piece.models), axis=1))
        return piece.base + u @ tied(piece.name, parts, piece.weights)

    def factored(name: str, factors: Sequence[Factors], weights: np.ndarray) -> Factors:
        left, upper = np.linalg.qr(np.concatenate([b for _, b in factors], axis=1))
        rights, lowers = zip(*(np.linalg.qr(a.T) for a, _ in factors), strict=True)
        edges = np.cumsum([a.shape[0] for a, _ in factors])[:-1]
        # upper · blockdiag(lowerᵀ) is the whole in the orthogonal bases of both sides.
        blocks = [part @ lower.T for part, lower in zip(np.split(upper, edges, axis=1), lowers, strict=True)]
        u, s, vt = np.linalg.svd(np.concatenate(blocks, axis=1), full_matrices=False)
        u, coordinates = _supported(u, s, vt)
        cuts = np.cumsum([block.shape[1] for block in blocks])[:-1]
        parts = [part @ right.T for part, right in zip(np.split(coordinates, cuts, axis=1), rights, strict=True)]
        return tied(name, np.stack(parts), weights), left @ u

    return Rule("knots", combine, base=True, factored=factored)


def _supported(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(U, Σ Vᵀ)`` of the singular values that are there; at least one."""
    kept = max(1, int(np.sum(s > SUPPORTED * s[0])))
    return u[:, :kept], s[:kept, None] * vt[:kept]
