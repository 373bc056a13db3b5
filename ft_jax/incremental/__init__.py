"""Incremental learning: tasks that arrive one after another.

- `ewc`: weights that mattered to earlier tasks are held by a quadratic penalty.
- `replay`: earlier examples, kept in a reservoir on the device, are trained on again.
"""

from ft_jax.incremental.ewc import ewc
from ft_jax.incremental.replay import replay

__all__ = ["ewc", "replay"]
