"""Means of weights."""

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule, shares, within


@merging_rule
def uniform() -> Rule:
    """The weighted mean: ``Σ_k w_k models_k / Σ_k w_k`` (Wortsman et al. 2022, arXiv:2203.05482, the uniform soup).

    Over checkpoints of one run it is stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407).

    Example:
      >>> from ft_jax.ensemble import merging
      >>> merging.merge_trees(merging.uniform(), [{"w": np.zeros(2)}, {"w": np.ones(2)}], weights=(1, 3))
      {'w': array([0.75, 0.75])}
    """
    return Rule("uniform", _mean(shares), coefficients=shares)


@merging_rule
def ema(decay: float = 0.9) -> Rule:
    """The exponential moving average over models in the order given, the oldest first.

    ``average ← decay · average + (1 - decay) · model_k``, which starts at the first (Polyak and Juditsky 1992;
    Morales-Brotons et al. 2024, arXiv:2411.18704); a model's weight multiplies its share.

    Args:
      decay: between 0 and 1.

    Raises:
      ValueError: another decay.

    Example:
      >>> ema(0.5).coefficients(np.ones(3))
      array([0.25, 0.25, 0.5 ])
    """
    within("ema", "decay", decay, 0.0, 1.0)

    def coefficients(weights):
        powers = decay ** np.arange(len(weights) - 1, -1, -1.0)
        powers[1:] *= 1 - decay
        return shares(weights * powers)

    return Rule("ema", _mean(coefficients), coefficients=coefficients)


def _mean(coefficients):
    def combine(piece: Piece):
        return np.sum(piece.spread(coefficients(piece.weights)) * piece.models, axis=0)

    return combine
