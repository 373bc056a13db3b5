"""Merging: several models' weights in one.

A rule merges one tensor at a time; what it merges are trees in memory, checkpoints' folders or LoRA adapters.

- `uniform`: the mean, a model soup; of checkpoints of one run, stochastic weight averaging. `ema`: the moving average.
- `greedy_soup`: which models to take the mean of.
- `task_arithmetic`, `ties`, `dare`, `della`: sums of differences from a base, whole or thinned out.
- `tsv`, `iso_c`: sums in the singular vectors of the differences. `knots`: TIES in those that all share.
- `slerp`: the arc between two models. `model_stock`: between a base and the mean.
- `fisher`: each weight from the models that depend on it.
- `merge_trees`, `merge_folders`, `merge_adapters`: do it.
"""

from ft_jax.ensemble.merging.adapters import merge_adapters, write_adapter
from ft_jax.ensemble.merging.average import ema, uniform
from ft_jax.ensemble.merging.fisher import fisher
from ft_jax.ensemble.merging.folders import merge_folders
from ft_jax.ensemble.merging.knots import knots
from ft_jax.ensemble.merging.merged import Merged
from ft_jax.ensemble.merging.model_stock import model_stock
from ft_jax.ensemble.merging.rule import RULES, Piece, Rule
from ft_jax.ensemble.merging.slerp import slerp
from ft_jax.ensemble.merging.soups import Soup, greedy_soup
from ft_jax.ensemble.merging.spectral import iso_c, tsv
from ft_jax.ensemble.merging.task_arithmetic import dare, della, task_arithmetic, ties
from ft_jax.ensemble.merging.trees import merge_trees

__all__ = [
    "RULES",
    "Merged",
    "Piece",
    "Rule",
    "Soup",
    "dare",
    "della",
    "ema",
    "fisher",
    "greedy_soup",
    "iso_c",
    "knots",
    "merge_adapters",
    "merge_folders",
    "merge_trees",
    "model_stock",
    "slerp",
    "task_arithmetic",
    "ties",
    "tsv",
    "uniform",
    "write_adapter",
]
