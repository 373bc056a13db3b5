"""The outcome an experiment expects, checked against what it gave."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One expectation and what came of it.

    Attributes:
      name: as in ``Experiment.expect``.
      bound: the value asked for.
      value: the value there is, or None where the metric wasn't measured.
      met: whether it holds.
    """

    name: str
    bound: float
    value: float | None
    met: bool

    def __str__(self):
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} {self.bound:g}: {value} ({'met' if self.met else 'missed'})"


def outcomes(
    expect: Mapping[str, float], scores: Mapping[str, Mapping[str, Any]], watched: str | None
) -> list[Outcome]:
    """Checks expectations against ``{phase: {set: {metric: value}}}``.

    The names are a metric with what is asked of it: ``"accuracy"`` (after training, at least),
    ``"max_loss"`` (after training, at most), ``"accuracy_gain"`` (after minus before, at least),
    ``"loss_drop"`` (before minus after, at least). ``"movies/accuracy"`` names the evaluation set too;
    without one it is the watched set. Of several trials the best counts.

    Example:
      >>> scores = {"before": {"test": {"accuracy": 0.5}}, "after": {"test": {"accuracy": 0.8}}}
      >>> [str(outcome) for outcome in outcomes({"accuracy_gain": 0.2, "accuracy": 0.9}, scores, "test")]
      ['accuracy_gain 0.2: 0.3 (met)', 'accuracy 0.9: 0.8 (missed)']
    """

    def value(phase, name, metric, best):
        found = scores.get(phase, {}).get(name, {}).get(metric)
        return None if found is None else float(best(np.asarray(found, np.float64)))

    found = []
    for name, bound in expect.items():
        owner, _, metric = name.rpartition("/")
        owner = owner or watched
        if metric.endswith("_gain") or metric.endswith("_drop"):
            rises = metric.endswith("_gain")
            metric = metric.removesuffix("_gain").removesuffix("_drop")
            best = np.nanmax if rises else np.nanmin
            before, after = value("before", owner, metric, best), value("after", owner, metric, best)
            got = None if before is None or after is None else (after - before if rises else before - after)
            met = got is not None and got >= bound
        elif metric.startswith("max_"):
            got = value("after", owner, metric.removeprefix("max_"), np.nanmin)
            met = got is not None and got <= bound
        else:
            got = value("after", owner, metric, np.nanmax)
            met = got is not None and got >= bound
        found.append(Outcome(name, bound, got, met))
    return found
