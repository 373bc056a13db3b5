"""Fusion: several members' predictions in one.

- `mean`, `product`, `vote`: of logits, of classes or of every token; `FUSIONS` by name.
- `weighted`, `mixture_weights`: a mixture whose weights held-out labels chose.
- `stack`, `stack_values`: a second model on `out_of_fold` predictions, of classes and of numbers.
- `compare`: members and fusions side by side.
- `mean_value`, `gaussian`: of numbers. `token_log_probability`: of labels' log-probabilities. `majority`: of answers.
"""

from ft_jax.ensemble.fusion.rules import (
    FUSIONS,
    gaussian,
    majority,
    mean,
    mean_value,
    mixture_weights,
    product,
    token_log_probability,
    vote,
    weighted,
)
from ft_jax.ensemble.fusion.stacking import OutOfFold, Stack, out_of_fold, stack, stack_values
from ft_jax.ensemble.fusion.table import Comparison, Quorum, check_quorum, compare

__all__ = [
    "FUSIONS",
    "Comparison",
    "OutOfFold",
    "Quorum",
    "Stack",
    "check_quorum",
    "compare",
    "gaussian",
    "majority",
    "mean",
    "mean_value",
    "mixture_weights",
    "out_of_fold",
    "product",
    "stack",
    "stack_values",
    "token_log_probability",
    "vote",
    "weighted",
]
