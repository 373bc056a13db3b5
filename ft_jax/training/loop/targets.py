"""When a task is over, and how batches that are tested before they are trained on are scored."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.training.metrics import Metric, MetricLike
from ft_jax.training.outcome import outcomes

Sums = Mapping[str, tuple[Any, Any]]
"""Metric name to its sum and count over a batch, as `ft_jax.training.evaluate.measurer` gives them."""


def reached(until: Mapping[str, float], scores: Mapping[str, Any], watched: str | None) -> str | None:
    """In words how all targets are met; None where one is not, or where there is none.

    Example:
      >>> scores = {"new": {"accuracy": 0.95, "loss": 0.2}, "old": {"accuracy": 0.5}}
      >>> reached({"accuracy": 0.9, "max_loss": 0.3}, scores, "new")
      'accuracy 0.95 and loss 0.2 are at the targets'
      >>> reached({"old/accuracy": 0.9}, scores, "new") is None
      True
    """
    found = outcomes(until, {"after": scores}, watched)
    if not found or not all(one.met for one in found):
        return None
    told = " and ".join(f"{one.name.replace('max_', '')} {one.value:.4g}" for one in found)
    return f"{told} {'is at the target' if len(found) == 1 else 'are at the targets'}"


def at_target(experiment: Any, scores: Mapping[str, Any], watched: str | None, value: float) -> str | None:
    """In words how a task's targets are met, those of ``budget.until`` or ``budget.target``; None where they aren't.

    Args:
      experiment: whose budget and watched metric they are.
      scores: of all sets.
      watched: the set that is watched.
      value: of the watched metric on it; NaN is at no target.
    """
    budget, spec = experiment.budget, experiment.evaluation
    met = reached(budget.until, scores, watched)
    if met is not None or budget.target is None or math.isnan(value) or spec.better(budget.target, value):
        return met
    return f"{spec.metric} {value:.4g} is at the target"


def no_better(metric: str, evaluations: int, best: float | None) -> str:
    """Why patience has ended.

    Example:
      >>> no_better("accuracy", 3, 0.5), no_better("accuracy", 3, None)
      ('no better accuracy in 3 evaluations, best 0.5', 'no finite accuracy in 3 evaluations')
    """
    if best is None:
        return f"no finite {metric} in {evaluations} evaluations"
    return f"no better {metric} in {evaluations} evaluations, best {best:.4g}"


def tested(window: Sequence[Sums], metrics: Mapping[str, MetricLike]) -> dict[str, Any]:
    """The metrics over batches that were each measured before they were trained on.

    Example:
      >>> tested([{"accuracy": (3.0, 4.0)}, {"accuracy": (1.0, 4.0)}], {})
      {'accuracy': 0.5}
    """
    scores = {}
    for name in window[0] if window else ():
        total, weight = (np.sum([np.asarray(sums[name][at], np.float64) for sums in window], axis=0) for at in (0, 1))
        mean = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
        metric = metrics.get(name)
        value = np.asarray(metric.finish(mean) if isinstance(metric, Metric) else mean)
        scores[name] = float(value) if value.ndim == 0 else value.astype(np.float32)
    return scores
