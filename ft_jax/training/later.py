"""Tasks that a stream gives while a run goes on."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from ft_jax.training.experiment import Experiment
from ft_jax.training.limits import check_limits
from ft_jax.training.loop.sizes import check_resizable, with_largest
from ft_jax.training.stream import Batch, Stream, check_batch, check_stream, outputs_of
from ft_jax.training.tracing import shapes_of, task_batches, trace


def growing_sets(stream: Stream) -> dict[str, Iterable[Batch]]:
    """The evaluation sets of a stream that may go on, by names that later tasks don't change.

    A set has its task's name before its own, unless it is called like the task; one that later tasks share has the
    name under which it came first.

    Example:
      >>> from ft_jax.training.stream import Task
      >>> one, shared = [{}], [{}]
      >>> list(growing_sets((Task("a", iter, {"a": one, "all": shared}), Task("b", iter, {"b": [{}], "all": shared}))))
      ['a', 'a/all', 'b']
    """
    sets: dict[str, Iterable[Batch]] = {}
    seen: set[int] = set()
    for task in stream:
        for name, batches in task.evaluations.items():
            if id(batches) not in seen:
                seen.add(id(batches))
                sets[name if name == task.name else f"{task.name}/{name}"] = batches
    return sets


def all_steps(experiment: Experiment) -> int:
    """Steps of a run whose tasks come one after the other, for the schedule of its learning rate.

    Raises:
      ValueError: they are not known, and the schedule depends on them.
    """
    budget, optimizer = experiment.budget, experiment.optimizer
    if budget.tasks is not None and budget.steps is not None:
        return budget.tasks * budget.steps
    if getattr(optimizer, "schedule", "constant") != "constant" or getattr(optimizer, "warmup", 0.0):
        raise ValueError(
            f"optimizer.schedule {optimizer.schedule!r} with warmup {optimizer.warmup:g} needs to know the last step, "
            "and a stream without an end has none; give budget.tasks and budget.steps, or a constant rate, no warmup"
        )
    return 1


def extended(plan: Any, widened: Callable[[Any, Stream, tuple], Any]) -> Any | None:
    """The plan with the next task of its stream, checked as the first ones were; None at the stream's end.

    Args:
      plan: a `ft_jax.training.prepare.Plan`.
      widened: the plan of a stream, and a batch of every shape of each task, for which the head has more outputs.

    Raises:
      ValueError: a task that is not like those before it, in the words of `ft_jax.training.prepare.prepare`.
    """
    budget = plan.experiment.budget
    if plan.later is None or (budget.tasks is not None and len(plan.stream) >= budget.tasks):
        return None
    task = next(plan.later, None)
    if task is None:
        return None
    stream = check_stream((*plan.stream, task))
    check_resizable(task, budget)
    batches = with_largest(task_batches(task), budget)
    if outputs_of(stream) != outputs_of(plan.stream):
        return widened(plan, stream, (*plan.shapes, batches))
    for batch in batches:
        check_batch(batch, f"task {task.name!r}")
        check_limits(batch, plan.limits, f"task {task.name!r}")
    longer = dataclasses.replace(
        plan,
        stream=stream,
        sets=growing_sets(stream),
        steps=(*plan.steps, task.steps or budget.steps_for(task.name, task.examples)),
        shapes=(*plan.shapes, batches),
    )
    known = {shapes_of(batch) for shapes in plan.shapes for batch in shapes}
    if any(shapes_of(batch) not in known for batch in batches):
        trace(longer, plan.plain)
    return longer
