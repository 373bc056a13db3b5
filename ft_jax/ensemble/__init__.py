"""Ensemble learning: several learners, one answer.

- `members`: independent members in one program, their predictions fused by `mean`, `vote` or `product`.
- `diversity`: what makes members differ: starts, bags, features, ranks, BatchEnsemble, experts, boosting.
- `posterior`: several predictions from one run: EMA, SWA, SWAG, snapshots, MC dropout, last-layer Laplace.
- `fusion`: votes, means, mixtures and stacks of predictions, of classes, numbers and tokens.
- `calibration`: temperature and vector scaling, conformal sets, scores and reliability diagrams.
- `merging`: several models' weights in one.
"""

from ft_jax.ensemble import calibration, diversity, fusion, merging, posterior
from ft_jax.ensemble.diversity import (
    bagging,
    batch_ensemble,
    lora_experts,
    own_start,
    own_task,
    random_subspace,
    ranks,
    samme,
)
from ft_jax.ensemble.fusion import FUSIONS, mean, product, vote
from ft_jax.ensemble.members import members
from ft_jax.ensemble.posterior import ema, last_layer, mc_dropout, snapshots, swa, swag

__all__ = [
    "FUSIONS",
    "bagging",
    "batch_ensemble",
    "calibration",
    "diversity",
    "ema",
    "fusion",
    "last_layer",
    "lora_experts",
    "mc_dropout",
    "mean",
    "members",
    "merging",
    "own_start",
    "own_task",
    "posterior",
    "product",
    "random_subspace",
    "ranks",
    "samme",
    "snapshots",
    "swa",
    "swag",
    "vote",
]
