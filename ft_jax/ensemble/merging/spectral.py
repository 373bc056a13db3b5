"""Merges in the singular vectors of task matrices."""

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule


@merging_rule
def tsv(scale: float = 1.0, share: float | None = None) -> Rule:
    """Keeps each task's strongest singular vectors and makes them orthogonal between tasks (TSV-Merge).

    Gargiulo et al. 2025, arXiv:2412.00081, algorithm 1. Of each matrix's task vector ``U Σ Vᵀ`` the first
    ``share · rank`` singular vectors stay. Those of all tasks side by side, ``U = [U_1 … U_K]`` and V alike, give way
    to the nearest orthogonal matrices (Procrustes: ``P Qᵀ`` of the singular value decomposition ``P D Qᵀ``), and the
    result is ``base + scale · U⊥ Σ V⊥ᵀ``. Tensors that are no matrices go by the mean of their task vectors. A task's
    weight multiplies its singular values.

    Args:
      scale: α of the paper.
      share: of the rank that each task keeps; 1 over the number of tasks by default.

    Raises:
      ValueError: a share outside (0, 1].

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.diag([4.0, 0.0])}, {"w": np.diag([0.0, 2.0])}]
      >>> np.abs(merging.merge_trees(merging.tsv(), models, base={"w": np.zeros((2, 2))})["w"]).round(4).tolist()
      [[4.0, 0.0], [0.0, 2.0]]
    """
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"tsv has share {share}; give a number above 0 and at most 1")

    def combine(piece: Piece):
        if piece.base.ndim != 2:
            return mean_of_vectors(piece, scale)
        part = share if share is not None else 1 / len(piece.models)
        kept = max(1, int(min(piece.base.shape) * part))
        left, values, right = [], [], []
        for weight, vector in zip(piece.weights, piece.vectors, strict=True):
            u, s, vt = np.linalg.svd(vector, full_matrices=False)
            left, values, right = [*left, u[:, :kept]], [*values, weight * s[:kept]], [*right, vt[:kept]]
        u, vt = _orthogonal(np.concatenate(left, axis=1)), _orthogonal(np.concatenate(right))
        return piece.base + scale * ((u * np.concatenate(values)) @ vt)

    return Rule("tsv", combine, base=True)


@merging_rule
def iso_c(scale: float = 1.0) -> Rule:
    """Gives the summed task matrix one singular value, their mean (Marczak et al. 2025, arXiv:2502.04959, Iso-C).

    With ``Σ_k w_k (models_k - base) = U Σ Vᵀ``: ``base + scale · mean(Σ) · U Vᵀ``. Directions that few tasks share are
    not drowned by those that all do. Tensors that are no matrices go by the mean of their task vectors.

    Args:
      scale: α of the paper.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> merging.merge_trees(merging.iso_c(), [{"w": np.diag([3.0, 1.0])}], base={"w": np.zeros((2, 2))})["w"].round(4)
      array([[2., 0.],
             [0., 2.]])
    """

    def combine(piece: Piece):
        if piece.base.ndim != 2:
            return mean_of_vectors(piece, scale)
        summed = np.sum(piece.spread(piece.weights) * piece.vectors, axis=0)
        u, s, vt = np.linalg.svd(summed, full_matrices=False)
        return piece.base + scale * s.mean() * (u @ vt)

    return Rule("iso_c", combine, base=True)


def mean_of_vectors(piece: Piece, scale: float) -> np.ndarray:
    """``base + scale ·`` the mean of the weighted task vectors."""
    return piece.base + scale * np.mean(piece.spread(piece.weights) * piece.vectors, axis=0)


def _orthogonal(matrix):
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u @ vt
