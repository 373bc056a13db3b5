"""Meta-learning: learning what learns a new task quickly, and which architecture suits it.

- `maml`, `fomaml`, `anil`: parameters from which a few gradient steps solve a task.
- `meta_sgd`: a rate for every parameter beside the start.
- `reptile`, `imaml`: without derivatives of the inner steps.
- `prototypical`, `simple_shot`: new classes by the nearest mean of features.
- `choose`: which of several architectures suits the task, decided while they train; more in `ft_jax.meta.choosing`.
- `lorahub`: adapters of other tasks mixed for a new one, without gradients.
- `episodes`: a batch as tasks with support and query examples.
"""

from ft_jax.meta.choosing import choose
from ft_jax.meta.episodes import PerTask, episodes
from ft_jax.meta.imaml import imaml
from ft_jax.meta.lorahub import Hub, lorahub
from ft_jax.meta.maml import anil, fomaml, maml
from ft_jax.meta.meta_sgd import meta_sgd
from ft_jax.meta.nearest_mean import prototypical, simple_shot
from ft_jax.meta.reptile import reptile

__all__ = [
    "Hub",
    "PerTask",
    "anil",
    "choose",
    "episodes",
    "fomaml",
    "imaml",
    "lorahub",
    "maml",
    "meta_sgd",
    "prototypical",
    "reptile",
    "simple_shot",
]
