"""Fisher merging."""

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule, shares, within


@merging_rule
def fisher(floor: float = 1e-6) -> Rule:
    """The mode of the product of the models' Laplace approximations (Matena and Raffel 2022, arXiv:2111.09832, eq. 3).

    ``Σ_k w_k (F_k + floor · mean F) θ_k / Σ_k w_k (F_k + floor · mean F)``, with F_k the diagonal Fisher information of
    model k: a weight is taken from the models whose task depended on it. `incremental.ewc` computes it at the end of
    a task (``state.memory["incremental.ewc"]["fisher"]``; with ``weight=0`` it does that and nothing else).

    Args:
      floor: as a share of the tensor's mean Fisher information, what every model counts at least; weights that no
        task depended on are averaged.

    Raises:
      ValueError: a floor that is not positive.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models, fishers = [{"w": np.zeros(2)}, {"w": np.ones(2)}], [{"w": np.array([1.0, 0])}, {"w": np.ones(2)}]
      >>> merging.merge_trees(merging.fisher(), models, fishers=fishers)["w"].round(2)
      array([0.5, 1. ])
    """
    within("fisher", "floor", floor, 0.0, 1.0)

    def combine(piece: Piece):
        if np.any(piece.fishers < 0):
            raise ValueError(f"the Fisher information of {piece.name!r} is negative somewhere; it is a mean of squares")
        mean = piece.fishers.mean()
        precision = piece.fishers + (floor * mean if mean > 0 else 1.0)
        precision = precision * piece.spread(shares(piece.weights))
        return np.sum(precision * piece.models, axis=0) / np.sum(precision, axis=0)

    return Rule("fisher", combine, fishers=True)
