"""Hyperparameter tuning: trials as values.

- `population`: trials that differ in numbers, trained in one compiled program; `standings`, `trial_state`.
- `Asha`, `MedianStopping`, `Pbt`: what stops, starts and copies its trials.
- `cross_validation`: folds as a number, so that folds of trials are members too.
- `brackets`, `rungs`, `promoted`: which trial gets how much training, by Hyperband and ASHA.
- `ft_jax.tuning.search`, which this does not import: spaces, samplers and studies that workers share.
"""

from ft_jax.tuning.cross_validation import cross_validation
from ft_jax.tuning.hyperband import Rung, brackets, promoted, rungs
from ft_jax.tuning.population import population, standings, trial_state
from ft_jax.tuning.schedules import Asha, MedianStopping, Pbt

__all__ = [
    "Asha",
    "MedianStopping",
    "Pbt",
    "Rung",
    "brackets",
    "cross_validation",
    "population",
    "promoted",
    "rungs",
    "standings",
    "trial_state",
]
