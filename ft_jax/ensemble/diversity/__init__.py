"""What makes members differ.

- `own_start`: untrained weights drawn anew. `bagging`: weights of the examples. `random_subspace`: features.
- `own_task`: the rows of one task, of batches that hold several.
- `ranks`: ranks of low-rank updates. `batch_ensemble`: a rank-one factor of each weight.
- `lora_experts`: low-rank experts mixed by a router, in one model.
- `samme`: boosting, each member on what the earlier ones got wrong.
"""

from ft_jax.ensemble.diversity.bagging import bagging
from ft_jax.ensemble.diversity.batch_ensemble import batch_ensemble
from ft_jax.ensemble.diversity.boosting import Boosted, samme
from ft_jax.ensemble.diversity.lora_experts import lora_experts
from ft_jax.ensemble.diversity.own_start import own_start
from ft_jax.ensemble.diversity.own_task import own_task
from ft_jax.ensemble.diversity.ranks import ranks
from ft_jax.ensemble.diversity.subspace import random_subspace

__all__ = [
    "Boosted", "bagging", "batch_ensemble", "lora_experts", "own_start", "own_task", "random_subspace", "ranks",
    "samme",
]  # fmt: skip
