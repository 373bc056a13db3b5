"""How many examples an update is made of, as a number that controllers change while a run goes on."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ft_jax.core import Composition, Method, TrainState, compose
from ft_jax.core.state import Hyper
from ft_jax.data.collate import of_one_length
from ft_jax.outside import printable

OWNER, NUMBER = "budget", "batch_size"
"""Whose number it is among the state's, and its name."""


def resizable(composition: Composition, budget: Any) -> Composition:
    """The composition with the number ``budget.batch_size``, where the budget lets controllers raise it.

    Raises:
      ValueError: a method that makes several of one program, which share their batches.
    """
    if budget.most_batch_size is None:
        return composition
    lifts = composition.inwards("lift")
    if lifts:
        raise ValueError(
            f"budget.most_batch_size lets controllers raise the batch's size, and {lifts[0][0]} trains several on one "
            "batch, each with numbers of its own; leave one of them out"
        )
    return compose(composition, Method(name=OWNER, hyper={NUMBER: float(budget.batch_size)}))


def check_resizable(task: Any, budget: Any) -> None:
    """Raises ValueError on a task whose batches can't be put together."""
    if budget.most_batch_size is not None and (task.ends or task.on_policy):
        why = "the policy makes its batches" if task.on_policy else "its source may end"
        raise ValueError(
            f"budget.most_batch_size puts batches together, and in task {printable(task.name)} {why}; leave it out"
        )


def batches_in_one(budget: Any, hyper: Hyper) -> int:
    """How many batches of the data an update takes by the state's number: the nearest whole one that is allowed.

    Args:
      budget: of the experiment.
      hyper: the state's numbers, a single copy of them.

    Raises:
      ValueError: a controller has made the number what no size can be.
    """
    if budget.most_batch_size is None:
        return 1
    size = float(jax.device_get(hyper[OWNER][NUMBER]))
    if not math.isfinite(size):
        raise ValueError(f"a controller has set {OWNER}.{NUMBER} to {size}; give its rule a bound")
    return min(max(1, round(size / budget.batch_size)), budget.most_batch_size // budget.batch_size)


def resized(plan: Any, state: TrainState, progress: Any, log: Any, cause: str) -> Any:
    """The progress with the size of the next updates, and a line of the log where it is another one.

    Args:
      plan: of the run.
      state: on its devices.
      progress: where the run stands.
      log: of the run.
      cause: of the change, for the log.
    """
    budget = plan.experiment.budget
    batches = batches_in_one(budget, plan.distributed.collect(state.hyper))
    if batches == progress.batches:
        return progress
    before, now = (count * budget.batch_size for count in (progress.batches, batches))
    log.event(progress.step, cause, f"an update takes {now} examples, before it took {before}; the state stays")
    return dataclasses.replace(progress, batches=batches)


def joined(batches: Sequence[Mapping[str, Any]], padding: int = 0) -> Mapping[str, Any]:
    """Host batches one after the other as one, rows of tokens filled up to the longest.

    Example:
      >>> joined([{"x": np.zeros((2, 3))}, {"x": np.ones((2, 3))}])["x"].shape
      (4, 3)
    """
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *of_one_length(batches, padding)
    )


def with_largest(shapes: list[Any], budget: Any) -> list[Any]:
    """A task's batches of every shape, and each as large as it may become, so that it is traced before the run."""
    if budget.most_batch_size in (None, budget.batch_size):
        return shapes
    return [*shapes, *(joined([batch] * (budget.most_batch_size // budget.batch_size)) for batch in shapes)]
