"""Hyperparameter tuning: trials as values.

- `population`: trials that differ in numbers, trained in one compiled program.
"""

from ft_jax.tuning.population import population

__all__ = ["population"]
