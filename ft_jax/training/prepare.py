"""Everything of a run but the training: built, checked and traced, before any compute is spent."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import optax

from ft_jax.core import Composition, Program, TrainState, compose, make_step
from ft_jax.core.params import digest, paths
from ft_jax.training.composition import (
    NEW_HEAD,
    Parts,
    build_methods,
    built,
    check_methods,
    check_untold,
    for_outputs,
    frozen_at_random,
    with_new_head,
)
from ft_jax.training.evaluate import measurer
from ft_jax.training.experiment import Experiment
from ft_jax.training.later import all_steps, growing_sets
from ft_jax.training.limits import limits_of
from ft_jax.training.loop.nonfinite import guarded
from ft_jax.training.loop.numbers import check_hyper_at
from ft_jax.training.loop.sizes import check_resizable, resizable, with_largest
from ft_jax.training.metrics import (
    CONFUSION,
    MOST_CLASSES,
    MetricLike,
    confusion,
    default_metrics,
    default_predict,
    preference_metrics,
)
from ft_jax.training.objective import PROBLEMS, target_of
from ft_jax.training.on_policy import OnPolicy, acting
from ft_jax.training.parallel import Distributed, check_divides, parallelise
from ft_jax.training.stream import (
    Batch,
    Feed,
    Stream,
    Task,
    check_batch,
    classes_of,
    first_batch,
    opened,
    outputs_of,
    size,
)
from ft_jax.training.tracing import PREQUENTIAL, task_batches, trace
from ft_jax.transfer.half_precision import in_half, master_copies, stochastic_rounding

POOLED = (None, "classification", "regression")
"""Heads over one vector an example, whose problem config.json tells."""

HALF_PRECISION = ("transfer.master_copies", "transfer.stochastic_rounding")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run ready to train.

    Attributes:
      experiment: what it was made from.
      model: the built model.
      stream: its tasks.
      composition: its methods, outermost first.
      distributed: its program on the devices.
      sets: all evaluation sets by name.
      metrics: by name.
      steps: updates on each task.
      key: for the state.
      abstract: shapes of the state.
      limits: what batches are checked against, see `ft_jax.training.limits`.
      shapes: of each task a host batch of every shape that it may train on.
      classes: names of the class ids, the same in all tasks; empty where there are none.
      plain: its program on one device.
      later: the tasks of a stream that are not drawn yet; None where all are in `stream`.
      measured: names of what an evaluation gives numbers for; empty without an evaluation set.
      answers: measures what the policy answers to prompts, ``tokens``, ``lengths`` and ``reward``; None where no method
        answers any, or what members answer is fused.
      asked: ``(outputs, batch) -> arrays by name`` to what measures them, placed as the run is; compiled when first
        asked.
    """

    experiment: Experiment
    model: Any
    stream: Stream
    composition: Composition
    distributed: Distributed
    sets: Mapping[str, Iterable[Batch]]
    metrics: Mapping[str, MetricLike]
    steps: tuple[int, ...]
    key: jax.Array
    abstract: TrainState
    limits: Mapping[str, int]
    shapes: tuple[list[Batch], ...]
    classes: tuple[str, ...] = ()
    plain: Program | None = None
    later: Iterator[Task] | None = None
    measured: tuple[str, ...] = ()
    answers: Distributed | None = None
    asked: Callable[[Callable[[Any, Batch], Any]], Distributed] | None = None

    @property
    def program(self) -> Program:
        """The pure functions."""
        return self.distributed.program

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return sum(self.steps)

    @property
    def padding(self) -> int:
        """The id of the padding token."""
        return getattr(self.model, "pad_token", 0)

    def ask(self, task: OnPolicy) -> Callable[[TrainState, Batch], Any]:
        """``(state, batch) -> arrays``: what an on-policy task asks its policy, compiled."""
        return self.distributed.ask(lambda axis: acting(task.act, self.composition, axis))

    def watched(self, task: int) -> str | None:
        """The evaluation set that early stopping and keep_best look at during a task.

        Where tasks share their sets, it is the one with the task's name, else the first that is the task's.
        """
        if self.experiment.evaluation.on is not None:
            return self.experiment.evaluation.on
        called = self.stream[task].name
        given = {id(batches) for batches in self.stream[task].evaluations.values()}
        own = [name for name, batches in self.sets.items() if id(batches) in given]
        named = [name for name in own if name == called or name.startswith(f"{called}/")]
        tested = [PREQUENTIAL] if self.experiment.evaluation.prequential else []
        return next(iter([*named, *own, *self.sets, *tested]), None)

    def parameters(self) -> dict[str, Any]:
        """Counts of learned and of all parameters, and the learned ones' paths and sizes."""
        learned = {path: leaf.size for path, leaf in zip(*_leaves(self.abstract.params), strict=True)}
        frozen = sum(leaf.size for leaf in jax.tree.leaves(self.abstract.frozen))
        return {"trainable": sum(learned.values()), "total": sum(learned.values()) + frozen, "leaves": learned}

    def bytes_of_state(self) -> dict[str, int]:
        """Bytes of the parts of the state, over all devices."""
        return {
            part: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(getattr(self.abstract, part)))
            for part in ("params", "frozen", "opt_state", "memory")
        }


def _leaves(tree):
    return paths(tree), jax.tree.leaves(tree)


def prepare(experiment: Experiment, outline: bool = False) -> Plan:
    """Builds and checks a run.

    Every function of it is traced with abstract values, so wrong fields, missing metrics and methods that
    don't fit show here, in one sentence each.

    Args:
      experiment: what to run.
      outline: to look at and not to train: models that would be trained first are taken untrained.

    Raises:
      ValueError, KeyError: whatever is wrong, with its remedy.
    """
    experiment.check()
    check_methods(experiment.method)
    spec, keys = _spec(experiment), _keys(experiment)
    model = built(spec, keys["model"], outline)
    stream, later = opened(experiment.data.build(model, _feed(experiment)))
    stream = stream[: experiment.budget.tasks]
    if stream[0].outputs is not None and getattr(spec, "classes", None) != stream[0].outputs:
        model = built(for_outputs(spec, stream[0].outputs), keys["model"], outline)
    example = _example(stream)
    budget = experiment.budget
    for task in stream:
        check_resizable(task, budget)
    shapes = tuple(with_largest(task_batches(task, example if task is stream[0] else None), budget) for task in stream)
    return _planned(experiment, model, stream, later, shapes, example, outline)


def widened(plan: Plan, stream: Stream, shapes: tuple[list[Batch], ...]) -> Plan:
    """The plan of a longer stream, for whose classes the head has more outputs.

    Args:
      plan: so far.
      stream: its tasks and the next ones.
      shapes: of each a host batch of every shape.
    """
    spec, keys = _spec(plan.experiment), _keys(plan.experiment)
    model = built(for_outputs(spec, outputs_of(stream)), keys["model"], False)
    return _planned(plan.experiment, model, stream, plan.later, shapes, shapes[0][0], False)


def _spec(experiment: Experiment) -> Any:
    return experiment.model.for_data(experiment.data) if hasattr(experiment.model, "for_data") else experiment.model


def _keys(experiment: Experiment) -> dict[str, jax.Array]:
    root = jax.random.key(experiment.seed)
    return {name: jax.random.fold_in(root, digest(name)) for name in ("model", "methods", "state")}


def _planned(
    experiment: Experiment,
    model: Any,
    stream: Stream,
    later: Iterator[Task] | None,
    shapes: tuple[list[Batch], ...],
    example: Batch,
    outline: bool,
) -> Plan:
    """The plan of tasks that were opened, and of a model whose head has the outputs that they ask for."""
    keys, budget = _keys(experiment), experiment.budget
    sets = evaluation_sets(stream) if later is None else growing_sets(stream)
    limits = limits_of(model, example, experiment, stream[0].name)
    steps = tuple(task.steps or budget.steps_for(task.name, task.examples) for task in stream)
    # Of a stream that is drawn as it goes, methods know the first task's, however far it has come.
    known = sum(steps) if later is None else steps[0]
    if stream[0].outputs is not None:
        check_untold(experiment.method)
    composition = build_methods(experiment.method, Parts(model, example, known, keys["methods"], outline))
    composition = with_new_head(composition, model)
    composition = in_full_precision(composition, model, getattr(experiment.optimizer, "half_precision", "none"))
    composition = resizable(guarded(composition, experiment.nonfinite), budget)
    target = target_of(model, example) if experiment.loss is None else None
    first_set = next((next(iter(batches), {}) for batches in sets.values()), example)
    metrics = default_metrics(first_set, target) if experiment.metrics is None else dict(experiment.metrics)
    own = experiment.metrics is None and experiment.predict is None and not composition.inwards("lift")
    if (
        own
        and target == "classes"
        and "accuracy" in metrics
        and limits.get("classes", MOST_CLASSES + 1) <= MOST_CLASSES
    ):
        metrics |= {CONFUSION: confusion(limits["classes"])}
    prefers = experiment.loss is None and any(part.gives == "preferences" for part in composition)
    if experiment.metrics is None and experiment.predict is None and prefers and {"chosen", "rejected"} <= {*first_set}:
        metrics |= preference_metrics()
    predict = experiment.predict or default_predict(bool(composition.inwards("lift")), target)
    optimizer = experiment.optimizer.build(sum(steps) if later is None else all_steps(experiment))
    loss = experiment.loss_of(model, example)

    def build(axis, predict=predict):
        program = make_step(loss, optimizer, composition, accumulate=budget.accumulate, axis=axis, predict=predict)
        start = lambda params, key: program.init(params, key).with_hyper(experiment.hyper)  # noqa: E731
        return dataclasses.replace(program, init=start)

    distributed = parallelise(build, experiment.parallelism, measurer(metrics))
    for rows in {budget.batch_size, *(size(task.train.like) for task in stream if task.on_policy)}:
        check_divides(rows, distributed.shards, budget.accumulate)
    plain = build(None)
    asked = lambda told: _asked(build, experiment, told)  # noqa: E731
    plan = Plan(
        experiment=experiment,
        model=told(model, classes_of(stream), target),
        stream=stream,
        composition=composition,
        distributed=distributed,
        sets=sets,
        metrics=metrics,
        steps=steps,
        key=keys["state"],
        abstract=jax.eval_shape(plain.init, model.params, keys["state"]),
        limits=limits,
        shapes=shapes,
        classes=classes_of(stream),
        plain=plain,
        later=later,
        answers=_answers(asked, composition, plain),
        asked=asked,
    )
    if not jax.tree.leaves(plan.abstract.params):
        raise ValueError(
            f"nothing learns: {', '.join(composition.names)} freeze every parameter; take one of them away, or name "
            "leaves that learn with also=(...)"
        )
    check_hyper_at(experiment.hyper_at, plan.abstract, sum(steps) if later is None else _most_steps(budget))
    return dataclasses.replace(plan, measured=trace(plan, plain))


def _most_steps(budget: Any) -> int:
    """Steps that a run over a stream without a known end may have."""
    known = budget.tasks is not None and budget.steps is not None
    return budget.tasks * budget.steps if known else sys.maxsize


def notes_of(plan: Plan) -> list[str]:
    """What a person should know of a run before it starts, in sentences."""
    notes = [note for task in plan.stream for note in task.notes]
    frozen = frozen_at_random(plan.composition, plan.model)
    if frozen:
        notes.append(f"{len(frozen)} parameters were drawn at random and do not learn, the first is {frozen[0]}")
    if str(getattr(getattr(plan.model, "config", None), "dtype", "")) == "float16":
        notes.append(
            "the model computes in float16, in which numbers above 65,504 are infinite and gradients below 6e-8 are 0; "
            "bfloat16 has float32's range"
        )
    if NEW_HEAD in plan.composition.names:
        notes.append("the new head learns as well")
    return notes


ROUNDINGS = {"master": master_copies, "stochastic": stochastic_rounding}


def _answers(asked: Callable, composition: Composition, plain: Program) -> Distributed | None:
    """What measures answers to prompts."""
    fused = bool(composition.inwards("lift")) and not plain.trials
    if fused or not any(part.gives == "prompts" for part in composition):
        return None

    def told(outputs, batch):
        return {field: batch[field] for field in ("tokens", "lengths", "reward") if field in batch}

    return asked(told)


def _asked(build, experiment: Experiment, told: Callable) -> Distributed:
    """What measures arrays of outputs and batches, placed as the run is; compiled when it is first asked."""

    def measure(program, axis):
        def answered(state, batch):
            found = program.evaluate(state, batch).predictions
            if axis is None:
                return found
            return jax.tree.map(lambda x: jax.lax.all_gather(x, axis, axis=len(program.trials), tiled=True), found)

        return answered

    return parallelise(lambda axis: build(axis, told), experiment.parallelism, measure)


def in_full_precision(composition: Composition, model: Any, rounding: str) -> Composition:
    """The composition in which small updates count on what learns in half precision, see `ft_jax.transfer`.

    Outermost stands the method that `rounding` names, where a leaf learns in half precision and none does so already.
    """
    if rounding == "none" or any(part.name in HALF_PRECISION for part in composition):
        return composition
    # What lifts a program may ask for the run's optimizer, and changes nothing of what learns.
    unlifted = compose(*(part for part in composition if part.lift is None))
    start = make_step(None, optax.identity(), unlifted).init
    learned = jax.eval_shape(start, model.params, jax.random.key(0)).params
    return compose(ROUNDINGS[rounding](), composition) if in_half(learned) else composition


def told(model: Any, classes: tuple[str, ...], target: str | None) -> Any:
    """The model with the data's names for its head's outputs and what they are, so that it is saved with them."""
    if classes and hasattr(model, "classes"):
        model = dataclasses.replace(model, classes=classes)
    if target in PROBLEMS and hasattr(model, "problem_type") and model.apply.kind in POOLED:
        model = dataclasses.replace(model, problem_type=PROBLEMS[target])
    return model


def _feed(experiment: Experiment) -> Feed:
    processes, size = jax.process_count(), experiment.budget.batch_size
    if size % processes:
        raise ValueError(f"a batch of {size} does not divide over {processes} processes; change budget.batch_size")
    return Feed(size // processes, experiment.seed, jax.process_index(), processes)


def evaluation_sets(stream: Stream) -> dict[str, Iterable[Batch]]:
    """All evaluation sets of a stream by name; a name that tasks share is put after the task's.

    Example:
      >>> from ft_jax.training.stream import Task
      >>> one, two, shared = [{}], [{}], [{}]
      >>> stream = (Task("a", iter, {"test": one, "all": shared}), Task("b", iter, {"test": two, "all": shared}))
      >>> list(evaluation_sets(stream))
      ['a/test', 'all', 'b/test']
    """
    by_name: dict[str, set[int]] = {}
    for task in stream:
        for name, batches in task.evaluations.items():
            by_name.setdefault(name, set()).add(id(batches))
    sets: dict[str, Iterable[Batch]] = {}
    for task in stream:
        for name, batches in task.evaluations.items():
            sets.setdefault(name if len(by_name[name]) == 1 else f"{task.name}/{name}", batches)
    return sets


def _example(stream: Stream) -> Batch:
    """A host batch of the run's first task."""
    batch = first_batch(stream[0])
    check_batch(batch, f"task {stream[0].name!r}")
    return batch
