"""Hyperparameter tuning: trials as values.

- `population`: trials that differ in numbers, trained in one compiled program.
- `brackets`, `rungs`, `promoted`: which trial gets how much training, by Hyperband and ASHA.
- `ft_jax.tuning.search`, which this does not import: spaces, samplers and studies that workers share.
"""

from ft_jax.tuning.hyperband import Rung, brackets, promoted, rungs
from ft_jax.tuning.population import population

__all__ = ["Rung", "brackets", "population", "promoted", "rungs"]
