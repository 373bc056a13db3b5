"""Meta-learning: learning what learns a new task quickly.

- `maml`: parameters from which a few gradient steps solve a task.
"""

from ft_jax.meta.maml import PerTask, episodes, maml

__all__ = ["PerTask", "episodes", "maml"]
