"""Ensemble learning: several learners, one answer.

- `members`: independent members in one program, their predictions fused by `mean`, `vote` or `product`.
- `fusion`: votes, means, mixtures and stacks of predictions, of classes, numbers and tokens.
- `calibration`: temperature and vector scaling, conformal sets, scores and reliability diagrams.
- `merging`: several models' weights in one.
"""

from ft_jax.ensemble import calibration, fusion, merging
from ft_jax.ensemble.fusion import FUSIONS, mean, product, vote
from ft_jax.ensemble.members import members

__all__ = ["FUSIONS", "calibration", "fusion", "mean", "members", "merging", "product", "vote"]
