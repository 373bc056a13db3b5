"""Ensemble learning: several learners, one answer.

- `members`: independent members in one program, their predictions fused by `mean`, `vote` or `product`.
"""

from ft_jax.ensemble.members import FUSIONS, mean, members, product, vote

__all__ = ["FUSIONS", "mean", "members", "product", "vote"]
