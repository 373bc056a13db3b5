"""Search over a space of values; optuna is the engine.

- `Uniform`, `Whole`, `Choice`, `parse_space`, `grid`: what a search chooses from.
- `Search`, `minimise`: how it chooses: a grid, at random, TPE, CMA-ES or a Gaussian process.
- `SharedStudy`, `Worker`: a study that many workers run, each trial to an end exactly once.
"""

from ft_jax.tuning.search.choosing import PRUNERS, SAMPLERS, Search, minimise
from ft_jax.tuning.search.gaussian_process import GaussianProcess
from ft_jax.tuning.search.shared_study import SharedStudy, Worker
from ft_jax.tuning.search.spaces import Axis, Choice, Space, Uniform, Whole, grid, parse_space

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Axis",
    "Choice",
    "GaussianProcess",
    "Search",
    "SharedStudy",
    "Space",
    "Uniform",
    "Whole",
    "Worker",
    "grid",
    "minimise",
    "parse_space",
]
