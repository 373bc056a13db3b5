"""Calibration: probabilities that say what they mean.

- `temperature`, `vector`: scale logits so that held-out labels are likeliest.
- `aps`, `raps`: conformal sets of classes that hold the true one as often as asked; `coverage` of them.
- `scores`: accuracy, log-likelihood, Brier score and expected calibration error; `reliability` and its picture.
"""

from ft_jax.ensemble.calibration.conformal import Sets, aps, coverage, raps
from ft_jax.ensemble.calibration.scaling import Scaling, temperature, vector
from ft_jax.ensemble.calibration.scores import Reliability, Scores, reliability, scores

__all__ = [
    "Reliability",
    "Scaling",
    "Scores",
    "Sets",
    "aps",
    "coverage",
    "raps",
    "reliability",
    "scores",
    "temperature",
    "vector",
]
