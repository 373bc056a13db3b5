"""Adaptive learning: training that changes its own strategy.

- `uncertainty`: loss terms weighed by learned noise variances.
- `plateau`: a number lowered when a metric stops improving.
"""

from ft_jax.adaptive.plateau import plateau
from ft_jax.adaptive.uncertainty import uncertainty

__all__ = ["plateau", "uncertainty"]
