"""Everything that a run will do, traced for every shape it will meet, before any compute is spent."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Program, TrainState
from ft_jax.core.params import nearest, path_of
from ft_jax.data.collate import of_one_length
from ft_jax.outside import listed, printable
from ft_jax.training.causes import fields_of, one_sentence
from ft_jax.training.evaluate import fill, measurer
from ft_jax.training.limits import MASKED, carries, check_carries, check_limits
from ft_jax.training.metrics import CONFUSION, HostMetric, of_classes
from ft_jax.training.on_policy import acting, numbered
from ft_jax.training.parallel import Outline, check_divides
from ft_jax.training.stream import Batch, Task, check_batch, first_batch, size, stack

MOST_TOLD = 8
"""Metrics up to which an error lists them all."""

PREQUENTIAL = "prequential"
"""The evaluation set of the latest training batches, each measured before it was trained on."""


def shapes_of(batch: Batch) -> tuple:
    """A batch's fields with their types and shapes: what a compiled program is for."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return tuple((jax.tree_util.keystr(path), str(np.asarray(leaf).dtype), np.shape(leaf)) for path, leaf in leaves)


def task_batches(task: Task, first: Batch | None = None) -> list[Batch]:
    """A host batch of every shape that a task may train on, as far as its source can tell; the first one elsewhere.

    Args:
      task: whose source nobody reads from meanwhile.
      first: its first batch, where it has been read already.
    """
    tell = getattr(task.train, "every_shape", None)
    if tell is not None:
        return _different(tell())
    return [first_batch(task) if first is None else first]


def set_batches(batches: Iterable[Batch]) -> list[Batch]:
    """A host batch of every shape in an evaluation set; one that can't tell is gone through."""
    tell = getattr(batches, "every_shape", None)
    return _different(tell() if tell is not None else batches)


def _different(batches: Iterable[Batch]) -> list[Batch]:
    found: dict[tuple, Batch] = {}
    for batch in batches:
        found.setdefault(shapes_of(batch), batch)
    return list(found.values())


def memories(batches: Sequence[Batch], shapes: Sequence[Batch], padding: int = 0) -> Batch:
    """A task's batches of any of its lengths as one, fields ``[count, batch, ...]``.

    Args:
      batches: of the task.
      shapes: a batch of every shape of the task; the longest of them is the length, whatever lengths were drawn.
      padding: id of the padding token.
    """
    return stack(of_one_length([*batches, *shapes], padding)[: len(batches)])


def trace(plan: Any, program: Program) -> tuple[str, ...]:
    """Runs every function of a run's program on shapes alone.

    Steps of every task's batches, the end of every task, and the evaluation of every set, each for all of its shapes.

    Args:
      plan: a `ft_jax.training.prepare.Plan`.
      program: its program on one device.

    Returns:
      The names that the evaluation gives numbers for.

    Raises:
      ValueError, KeyError: whatever is wrong, with its remedy.
    """
    outline = plan.distributed.outline or _outline(plan, program)
    _trace_steps(plan, program, outline)
    sums = _trace_evaluation(plan, outline)
    evaluation = plan.experiment.evaluation
    if evaluation.prequential and sums.keys() & {PREQUENTIAL}:
        raise ValueError(f"an evaluation set is called {PREQUENTIAL!r}, as the tested batches are; rename it")
    if evaluation.prequential:
        sums |= {PREQUENTIAL: _tested(plan, outline, sums)}
    if evaluation.on is not None and evaluation.on not in sums:
        raise KeyError(
            f"evaluation.on is {printable(evaluation.on)}, but the data's evaluation sets are {listed(sums)}"
        )
    budget = plan.experiment.budget
    needs = evaluation.keep_best or budget.patience or budget.target is not None or budget.until
    if needs and not sums:
        raise ValueError(
            "keep_best, patience, target and until need an evaluation set, and the data has none; give it one, or set "
            "evaluation.prequential"
        )
    if not sums:
        return ()
    _check_targets(plan, sums)
    known = [name for name in dict.fromkeys([*next(iter(sums.values())), *plan.metrics]) if name != CONFUSION]
    if evaluation.metric not in known:
        raise KeyError(
            f"evaluation.metric is {printable(evaluation.metric)}, but the evaluation gives {listed(known)}; name "
            "one of them, with evaluation.mode 'min' where less is better"
        )
    if evaluation.keep_best and len(plan.stream) > 1:
        raise ValueError(f"keep_best keeps one best state, but the data has {len(plan.stream)} tasks; set it to False")
    _trace_controllers(plan, program, sums)
    return tuple(known)


def _outline(plan: Any, program: Program) -> Outline:
    """Shapes by tracing functions of their own."""
    measure = measurer(plan.metrics)(program, None)
    return Outline(
        step=lambda state, batch: jax.eval_shape(program.step, state, batch),
        measure=lambda state, batch: jax.eval_shape(measure, state, batch),
    )


def _trace_steps(plan: Any, program: Program, outline: Outline) -> None:
    seen: set[tuple] = set()
    ends: set[tuple] = set()
    leaves = bool(program.after_task)
    # What a method adds may learn from examples that the task's loss leaves out; of it the first steps tell.
    plain = not any(part.loss or part.prepare or part.lift for part in plan.composition)
    for task, batches in zip(plan.stream, plan.shapes, strict=True):
        if plain and plan.experiment.loss is None and not task.on_policy:
            check_carries(task, batches)
        if task.on_policy:
            _trace_asking(plan, program, task)
        for batch in batches:
            check_batch(batch, f"task {task.name!r}")
            check_limits(batch, plan.limits, f"task {task.name!r}")
            if shapes_of(batch) not in seen:
                seen.add(shapes_of(batch))
                with _on(f"a step on task {task.name!r}", batch):
                    outline.step(plan.abstract, dict(batch))
        for name, act in program.after_task.items() if leaves and batches else ():
            several = memories([_shown(plan, task, name, batches)] * plan.experiment.evaluation.memories, batches)
            if (name, shapes_of(several)) not in ends:
                ends.add((name, shapes_of(several)))
                with _on(f"the end of task {task.name!r}", several):
                    jax.eval_shape(act, plan.abstract, several)


def _trace_asking(plan: Any, program: Program, task: Task) -> None:
    """What an on-policy task asks its policy."""
    if program.trials:
        lift = plan.composition.inwards("lift")[0][0]
        raise ValueError(
            f"{lift} runs several trials on one batch, and in task {printable(task.name)} each would act differently; "
            "make the rollouts inside the step, as rl.grpo does with rewards by ft_jax.rl.on_host"
        )
    question = numbered(task.train.question(), 0)
    check_divides(size(question), plan.distributed.shards)
    with _on(f"acting in task {task.name!r}", question):
        jax.eval_shape(acting(task.train.act, plan.composition), plan.abstract, question)


def _shown(plan: Any, task: Task, name: str, batches: list[Batch]) -> Batch:
    """A batch as a method sees it when a task ends."""
    aligned = any(part.aligned for part in plan.composition if part.name == name)
    if not aligned and not task.ends:
        return batches[0]
    first = None if task.once is None else next(iter(task.once), None)
    if first is None:
        why = "goes once through a task's examples" if aligned else "looks at a task's examples after its source ended"
        raise ValueError(f"{name} {why}, and task {task.name!r} gives no such pass; give the Task once=...")
    return fill(first, size(first))


def _tested(plan: Any, outline: Outline, sums: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the test of a training batch gives."""
    batch = next((batches[0] for batches in plan.shapes if batches), None)
    if batch is None:
        return next(iter(sums.values()), {})
    with _on("the test of a training batch", batch):
        return outline.measure(plan.abstract, dict(batch))[0]


def _check_targets(plan: Any, sums: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises KeyError on a target that no evaluation gives."""
    for name in plan.experiment.budget.until:
        owner, _, metric = name.rpartition("/")
        if owner and owner not in sums:
            raise KeyError(f"budget.until names the evaluation set {owner!r}, but there are {', '.join(sums)}")
        metric = metric.removeprefix("max_")
        made = sums[owner] if owner else next(iter(sums.values()))
        every = dict.fromkeys([*made, *(() if owner == PREQUENTIAL else plan.metrics)])
        known = [name for name in every if name != CONFUSION]
        if metric not in known:
            raise KeyError(f"budget.until ends a task at {name!r}, but the evaluation gives {', '.join(known)}")


def _trace_evaluation(plan: Any, outline: Outline) -> dict[str, Mapping[str, Any]]:
    """What the evaluation of each set gives."""
    sums: dict[str, Any] = {}
    traced: dict[tuple, Any] = {}
    for name, batches in plan.sets.items():
        where = f"evaluation set {name!r}"
        for batch in set_batches(batches):
            check_batch(batch, where)
            check_limits(batch, plan.limits, where)
            filled = fill(batch, size(batch))
            if shapes_of(filled) not in traced:
                with _on(f"the evaluation of {name!r}", filled):
                    traced[shapes_of(filled)] = outline.measure(plan.abstract, dict(filled))[0]
            sums[name] = traced[shapes_of(filled)]
        if name not in sums:
            raise ValueError(f"{where} is empty; give it at least one batch")
        if not any(carries(batch) for batch in batches):
            raise ValueError(f"nothing in {where} counts: {MASKED}; correct the labels or leave the set out")
        _check_metrics(plan, batches, where)
    return sums


def _on(what: str, batch: Batch):
    remedy = "change the data, model or method"
    return one_sentence(f"{what} is not possible with {fields_of(batch)}", remedy, ValueError)


def _check_metrics(plan: Any, batches: Iterable[Batch], where: str) -> None:
    """Refuses a set that a metric can't be made of, such as one without a class."""
    asking = {name: one for name, one in plan.metrics.items() if isinstance(one, HostMetric) and one.lacks is not None}
    if not asking:
        return
    labels = [np.asarray(batch["labels"])[_real(batch)] for batch in batches if "labels" in batch]
    if not labels or any(one.ndim != labels[0].ndim or one.shape[1:] != labels[0].shape[1:] for one in labels):
        return
    whole = np.concatenate(labels)
    for name, metric in asking.items():
        lack = metric.lacks(whole, plan.limits.get("classes", plan.limits.get("several")))
        if lack:
            raise ValueError(
                f"metric {printable(name)} can't be made of {where}, which {lack}; take another split or metric"
            )


def _real(batch: Batch) -> np.ndarray:
    """Which rows of a host batch count."""
    labels, weights = np.asarray(batch["labels"]), batch.get("weights")
    counts = np.ones(len(labels), bool) if weights is None else np.asarray(weights).reshape(len(labels), -1).any(axis=1)
    return counts & (labels >= 0) if labels.ndim == 1 and labels.dtype.kind == "i" else counts


def _trace_controllers(plan: Any, program: Program, sums: Mapping[str, Mapping[str, Any]]) -> None:
    """What methods do with what evaluations give.

    Raises:
      KeyError: one watches what no evaluation gives; of all that there is, the nearest is told.
    """
    names = {name: [one for one in {**parts, **plan.metrics} if one != CONFUSION] for name, parts in sums.items()}
    scores = {name: dict.fromkeys(own, np.zeros(program.trials)) for name, own in names.items()}
    tables = {name: np.zeros(parts[CONFUSION][0].shape) for name, parts in sums.items() if CONFUSION in parts}
    flat = flatten(scores, plan.watched(0), tables)
    every = ", ".join(sorted(flat))  # as jax orders them
    changers: dict[str, list[str]] = {}
    for name, act in program.after_eval.items():
        try:
            for number in _changed(act, plan.abstract, flat):
                changers.setdefault(number, []).append(name)
        except KeyError as error:
            sentence = str(error.args[0])
            asked = re.search(r"'([^']+)'", sentence)
            if asked is None or every not in sentence or len(flat) <= MOST_TOLD:
                raise
            told = f"{len(flat)} metrics, of which the nearest are {nearest(asked[1], flat)}"
            raise KeyError(sentence.replace(every, told)) from error

    for number, several in changers.items():
        if len(several) > 1:
            warnings.warn(
                f"{number} is changed by {', then by '.join(several)} when an evaluation ends, each from where the one "
                "before left it; leave one out where that is not meant",
                stacklevel=2,
            )


def _changed(act: Callable, state: TrainState, metrics: Mapping[str, jax.Array]) -> list[str]:
    """The numbers that a method may change when an evaluation ends: those that it does not hand through."""
    traced, shapes = jax.make_jaxpr(lambda state, metrics: act(state, metrics).hyper, return_shape=True)(state, metrics)
    given = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path((state, metrics))]
    numbers = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    before = [traced.jaxpr.invars[given.index(f"0/hyper/{number}")] for number in numbers]
    through = zip(numbers, before, traced.jaxpr.outvars, strict=True)
    return [number.replace("/", ".") for number, one, other in through if one is not other]


def flatten(
    scores: Mapping[str, Mapping[str, Any]], watched: str | None, tables: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, jax.Array]:
    """Scores as methods see them: ``"set/metric"`` for all, and the watched set's metrics by their own names.

    Args:
      scores: by set and metric.
      watched: the set whose metrics have no set in their names.
      tables: of classifiers by set, of which come the metrics of each class, see `ft_jax.training.metrics.of_classes`.
    """
    of = {name: of_classes(table) for name, table in tables.items()}
    scores = {name: {**values, **of.get(name, {})} for name, values in scores.items()}
    flat = {f"{name}/{metric}": value for name, values in scores.items() for metric, value in values.items()}
    flat |= scores.get(watched, {})
    # Through numpy, which reads the None of a score that is not finite as NaN.
    return {name: jnp.asarray(np.asarray(value, np.float32)) for name, value in flat.items()}
