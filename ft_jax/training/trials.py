"""Several trials in one run: which of them is the best, and what it was."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Winner:
    """The best of a run's trials.

    Attributes:
      trial: its index.
      metric, value: by which, and how much of it.
      numbers: those that differ between trials, by ``"method.number"``, as the winner had them.
      values: the metric of every trial, None where it is not finite.
      tried: the numbers of every trial.
    """

    trial: int
    metric: str
    value: float
    numbers: Mapping[str, float]
    values: tuple[float | None, ...]
    tried: Mapping[str, tuple[float, ...]]

    def __str__(self):
        told = "".join(f", {name}={value:.4g}" for name, value in self.numbers.items())
        return f"best: trial {self.trial}{told}, {self.metric} {self.value:.4g}"


def best_trial(scores: Mapping[str, Any], metric: str, mode: str) -> int | None:
    """The trial whose metric is best; None where there are no trials, or none has a finite value.

    Args:
      scores: of one evaluation set.
      metric: by which.
      mode: ``"max"`` or ``"min"``.

    Example:
      >>> best_trial({"accuracy": [0.5, 0.9, None]}, "accuracy", "max")
      1
    """
    values = np.asarray(scores.get(metric), np.float64)
    if values.ndim != 1 or not np.isfinite(values).any():
        return None
    return int(np.nanargmax(values) if mode == "max" else np.nanargmin(values))


def best_value(values: Any, mode: str) -> float:
    """The best of one value, or of several trials' that are finite; NaN where there is none.

    Example:
      >>> best_value([0.5, None, 0.9], "max")
      0.9
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    return float("nan") if not found.size else float(found.min() if mode == "min" else found.max())


def winner_of(scores: Mapping[str, Any], hyper: Mapping[str, Any], metric: str, mode: str) -> Winner | None:
    """The best trial with its numbers; None where there are no trials.

    Args:
      scores: of one evaluation set, by metric.
      hyper: every number by ``"method.number"``, one a trial.
      metric, mode: by which, and whether more or less of it is better.

    Example:
      >>> rates = {"optimizer.learning_rate": np.array([0.1, 0.002]), "adaptive.x.y": np.array([1.0, 1.0])}
      >>> print(winner_of({"accuracy": [0.7, 0.913]}, rates, "accuracy", "max"))
      best: trial 1, optimizer.learning_rate=0.002, accuracy 0.913
    """
    best = best_trial(scores, metric, mode)
    if best is None:
        return None
    values = np.asarray(scores[metric], np.float64)
    columns = {name: np.asarray(value, np.float64) for name, value in hyper.items()}
    differ = {name: column for name, column in columns.items() if column.shape == values.shape and np.ptp(column) > 0}
    return Winner(
        trial=best,
        metric=metric,
        value=float(values[best]),
        numbers={name: float(column[best]) for name, column in differ.items()},
        values=tuple(float(value) if np.isfinite(value) else None for value in values),
        tried={name: tuple(map(float, column)) for name, column in differ.items()},
    )
