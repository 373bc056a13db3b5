"""What methods are shown when a task ends: batches that it drew, or one aligned pass over its examples."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ft_jax.training.evaluate import fill
from ft_jax.training.prepare import Plan
from ft_jax.training.stream import Batch, Feeder, size
from ft_jax.training.tracing import memories


def shown(plan: Plan, at: int, feeder: Feeder, state: Callable[[], Any]) -> Callable[[str], Iterator[Batch]]:
    """``method's name -> stacks of batches`` at the end of a task; what the task draws is drawn once.

    Args:
      plan: of the run.
      at: the task's place in the stream.
      feeder: of the task.
      state: gives the state on the devices, for a task that is on-policy.
    """
    task, count = plan.stream[at], plan.experiment.evaluation.memories
    aligned = {part.name for part in plan.composition if part.aligned}
    drawn: list[Batch] = []

    def stacks(name: str) -> Iterator[Batch]:
        if name in aligned:
            yield from aligned_pass(plan, at)
            return
        if task.ends:
            yield next(aligned_pass(plan, at))
            return
        if not drawn:
            taken = [feeder.take(state).host for _ in range(count)]
            drawn.append(memories(taken, plan.shapes[at], plan.padding))
        yield drawn[0]

    return stacks


def aligned_pass(plan: Plan, at: int) -> Iterator[Batch]:
    """Stacks of ``evaluation.memories`` batches: every training example of a task once and in order, then padding."""
    count, rows = plan.experiment.evaluation.memories, None
    batches = iter(plan.stream[at].once)
    while taken := list(itertools.islice(batches, count)):
        rows = rows or -(-max(map(size, taken)) // plan.distributed.shards) * plan.distributed.shards
        filled = [fill(batch, rows) for batch in taken]
        nothing = {**filled[0], "weights": np.zeros_like(filled[0]["weights"])}
        filled += [nothing] * (count - len(filled))
        yield memories(filled, plan.shapes[at], plan.padding)
