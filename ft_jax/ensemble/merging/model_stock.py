"""Model stock."""

import itertools

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule


@merging_rule
def model_stock() -> Rule:
    """Between the base and the models' mean, nearer the base the more they disagree.

    Jang et al. 2024, arXiv:2403.19522: ``t · mean + (1 - t) · base`` with ``t = K cos θ / (1 + (K - 1) cos θ)``,
    tensor by tensor; cos θ is the mean cosine between two of the K task vectors. Where the denominator vanishes the
    base stays. Nothing is to be tuned; the models' weights play no part.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.array([1.0, 0.0])}, {"w": np.array([1.0, 1.0])}]
      >>> merging.merge_trees(merging.model_stock(), models, base={"w": np.zeros(2)})["w"].round(4)
      array([0.8284, 0.4142])
    """

    def combine(piece: Piece):
        vectors = piece.vectors.reshape(len(piece.models), -1)
        lengths = np.linalg.norm(vectors, axis=1)
        cosines = [
            np.clip(vectors[i] @ vectors[j] / max(lengths[i] * lengths[j], 1e-6), -1, 1)
            for i, j in itertools.combinations(range(len(vectors)), 2)
        ]
        count, cosine = len(vectors), np.mean(cosines)
        below = 1 + (count - 1) * cosine
        t = count * cosine / below if abs(below) >= 1e-6 else 0.0
        return t * piece.models.mean(axis=0) + (1 - t) * piece.base

    return Rule("model_stock", combine, base=True, fewest=2)
