"""What a run tells while it goes on and gives when it is over."""

import dataclasses
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ft_jax.core import Composition, Program, TrainState
from ft_jax.core.members import member
from ft_jax.training.logging import memory
from ft_jax.training.on_policy import Place
from ft_jax.training.outcome import Outcome
from ft_jax.training.parallel import as_parallelism
from ft_jax.training.prepare import Plan
from ft_jax.training.run_folder import describe

Scores = Mapping[str, Mapping[str, Any]]
"""Evaluation set to metric to value."""


class Diverged(ValueError):
    """The loss is no longer finite."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a callback is told: after an evaluation or at the end of a task.

    Attributes:
      kind: ``"evaluation"`` or ``"task"``.
      step: updates so far.
      task: the task's name.
      state: the state on its devices; the next step uses it up, so keep copies only.
      scores: of the latest evaluation.
    """

    kind: str
    step: int
    task: str
    state: TrainState
    scores: Scores


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
      state: the last one, or with ``keep_best`` the best; of many members it has a member axis.
      program: the run's pure functions.
      model: as it was built, before training.
      composition: the methods, outermost first.
      scores: by phase: ``"before"``, ``"after"``, and in a stream of tasks ``"after <task>"``.
      run: the run folder.
      status: ``"finished"`` or ``"interrupted"``.
      summary: what ``summary.json`` holds.
      outcomes: each expectation of the experiment and what came of it.
      compilations: how often this call compiled the step; 0 where the run was finished already.
    """

    state: TrainState
    program: Program
    model: Any
    composition: Composition
    scores: Mapping[str, Scores]
    run: Path
    status: str
    summary: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    compilations: int

    @property
    def params(self):
        """The model's tuned parameters with adapters in place; `ft_jax.core.merge` makes them dense."""
        return self.program.parameters(self.state)["model"]

    def best_trial(self) -> TrainState:
        """The state of the best of several trials, by the watched metric at the end, as its own run would have it.

        Raises:
          ValueError: the run had no trials.
        """
        won = self.summary.get("winner")
        if won is None:
            raise ValueError("the run had no trials to choose from; result.state is its state")
        return member(self.state, won["trial"])


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands: saved with every checkpoint, so all of it is JSON.

    Attributes:
      task, done: the task's index and the updates made on it.
      step: updates in all.
      place: the task's place in its data, told in JSON when it is saved.
      best, bad: the best watched value of the task, and evaluations since.
      over: early stopping has ended the task.
      evaluated: the step of the latest evaluation.
      batches: of the data in one update, see `Budget.most_batch_size`.
      tested: of the latest batches of the task what they gave before they were trained on, see `EvaluationSpec`.
      ended: how the last task stood when it ended, and ``steps`` it was to have: a finished run may go on from there.
      scores: by phase, as in `Result`.
      latest, best_scores: scores of the latest and of the best evaluation.
      tables, best_tables: of a classifier's sets, at the same evaluations, see `ft_jax.training.metrics.confusion`.
      wall, seconds, examples, tokens: time in all, time of training, and what was trained on in it.
    """

    task: int = 0
    done: int = 0
    step: int = 0
    place: Any = None
    best: float | None = None
    bad: int = 0
    over: bool = False
    evaluated: int | None = None
    batches: int = 1
    tested: Sequence[Mapping[str, Any]] = ()
    ended: Mapping[str, Any] | None = None
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    latest: Scores = dataclasses.field(default_factory=dict)
    best_scores: Scores | None = None
    tables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best_tables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wall: float = 0.0
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    def after_step(self, place: Any, examples: int, tokens: int) -> "Progress":
        """One update further."""
        return dataclasses.replace(
            self,
            done=self.done + 1,
            step=self.step + 1,
            place=place,
            examples=self.examples + examples,
            tokens=self.tokens + tokens,
        )

    def told(self) -> "Progress":
        """As it is saved: places in JSON, see `ft_jax.training.on_policy.Place`."""

        def one(place):
            return place.told() if isinstance(place, Place) else place

        ended = self.ended and {**self.ended, "place": one(self.ended["place"])}
        return dataclasses.replace(self, place=one(self.place), ended=ended)

    def next_task(self, steps: int) -> "Progress":
        """At the start of the next task; this one was to have so many steps."""
        ended = {"done": self.done, "place": self.place, "best": self.best, "bad": self.bad, "steps": steps}
        return dataclasses.replace(
            self, task=self.task + 1, done=0, place=None, best=None, bad=0, over=False, tested=(), ended=ended
        )

    def before_the_end(self) -> "Progress":
        """At the end of the last task, before leave was taken of it."""
        back = {name: value for name, value in self.ended.items() if name != "steps"}
        scores = {phase: found for phase, found in self.scores.items() if phase != "after"}
        return dataclasses.replace(self, task=self.task - 1, scores=scores, ended=None, **back)


def held() -> dict[str, float]:
    """The most memory in GiB that the process has held, on the host and, where it says, on its fullest device."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host_gib": round(resident / 2**30, 3), **memory()}


def summarise(plan: Plan, progress: Progress, found: Sequence[Outcome], status: str, wall: float) -> dict[str, Any]:
    """What ``summary.json`` says of a run that took `wall` seconds."""
    speed = {}
    if progress.seconds > 0 and progress.examples:
        speed["examples_per_second"] = progress.examples / progress.seconds
        if progress.tokens:
            speed["tokens_per_second"] = progress.tokens / progress.seconds
    return {
        "name": plan.experiment.name,
        "status": status,
        "steps": progress.step,
        "scores": progress.scores,
        "expected": "; ".join(map(str, found)),
        "composition": list(plan.composition.names),
        "parameters": plan.parameters(),
        "seconds": wall,
        "throughput": speed,
        "memory": held(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "parallelism": describe(as_parallelism(plan.experiment.parallelism)),
        "compilations": plan.distributed.compilations(),
    }
