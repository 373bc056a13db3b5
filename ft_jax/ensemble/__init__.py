"""Ensemble learning: several learners, one answer.

- `members`: independent members in one program, their predictions fused by `mean`, `vote` or `product`.
- `diversity`: what makes members differ: starts, BatchEnsemble, experts, boosting.
- `posterior`: several predictions from one run: last-layer Laplace.
- `fusion`: votes, means, mixtures and stacks of predictions, of classes, numbers and tokens.
- `calibration`: temperature and vector scaling, conformal sets, scores and reliability diagrams.
- `merging`: several models' weights in one.
"""

from ft_jax.ensemble import calibration, diversity, fusion, merging, posterior
from ft_jax.ensemble.diversity import batch_ensemble, lora_experts, own_start, samme
from ft_jax.ensemble.fusion import FUSIONS, mean, product, vote
from ft_jax.ensemble.members import members
from ft_jax.ensemble.posterior import last_layer

__all__ = [
    "FUSIONS",
    "batch_ensemble",
    "calibration",
    "diversity",
    "fusion",
    "last_layer",
    "lora_experts",
    "mean",
    "members",
    "merging",
    "own_start",
    "posterior",
    "product",
    "samme",
    "vote",
]
