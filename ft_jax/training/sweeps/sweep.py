"""A sweep as a value: what is tried, how a trial is judged, where it is kept."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.core.params import nearest
from ft_jax.data.folds import FoldKind
from ft_jax.outside import check_name, printable
from ft_jax.training.experiment import Experiment
from ft_jax.training.overrides import override
from ft_jax.training.run_folder import NOT_IDENTITY, describe, finite
from ft_jax.training.sweeps.folded import Folded
from ft_jax.tuning.search import Axis, Choice, Search, SharedStudy, Worker
from ft_jax.tuning.search.spaces import parse_axis

COSTS = ("parameters", "seconds", "latency")
"""Objectives every run has, less is better: learned parameters, seconds in all, milliseconds of an evaluation batch."""


class Interrupted(Exception):
    """A person or the system wants the worker to stop."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trials of one experiment, whose fields a search chooses.

    Attributes:
      experiment: what every trial is but for the chosen fields.
      space: field paths as ``ft-jax run`` takes them to axes, or to their words (``"1e-5..1e-2:log"``).
      trials: how many; None for all of a grid.
      search: how they are chosen and given up.
      folds: each trial is judged by the mean over so many folds of the training examples; 1 for the
        experiment's own evaluation.
      fold_kind, group, fold_seed: see `Folded`.
      objectives: metrics or `COSTS`, with ``max:`` or ``min:`` before a metric other than the watched one; the
        experiment's watched metric by default. With several there is a front in place of a winner.
      together: trials that one program trains as members where they differ in numbers alone; 0 for as many as memory
        takes, found from the compiled step.
      out: the folder of the sweep.
      storage: of the study; a journal file in `out` by default, or a database by URL.
    """

    experiment: Experiment
    space: Mapping[str, Axis | str]
    trials: int | None = None
    search: Search = dataclasses.field(default_factory=Search)
    folds: int = 1
    fold_kind: FoldKind | None = None
    group: str | None = None
    fold_seed: int = 0
    objectives: tuple[str, ...] = ()
    together: int = 1
    out: Path | None = None
    storage: str | None = None

    @property
    def axes(self) -> dict[str, Axis]:
        """The space with every axis read."""
        return {path: parse_axis(axis) if isinstance(axis, str) else axis for path, axis in self.space.items()}

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.out) if self.out else Path("runs") / "sweeps" / self.experiment.name

    @property
    def address(self) -> str:
        """Of the storage."""
        return self.storage or str(self.folder / "journal.log")

    def goals(self) -> list[tuple[str, str]]:
        """Each objective with ``"max"`` or ``"min"``.

        Raises:
          ValueError: a metric without either that isn't the watched one.
        """
        watched = self.experiment.evaluation
        found = []
        for objective in self.objectives or (watched.metric,):
            mode, colon, name = objective.rpartition(":")
            if not colon:
                mode = {watched.metric: watched.mode, "loss": "min", **dict.fromkeys(COSTS, "min")}.get(name, "")
            if mode not in ("max", "min") or not name:
                raise ValueError(
                    f"objective {printable(objective)} doesn't say whether more is better; write max:{name} or "
                    f"min:{name}"
                )
            found.append((name, mode))
        return found

    def check(self) -> None:
        """Raises ValueError or KeyError, in one sentence, on what can be seen to be wrong before training.

        Every end of a range and every choice is put into the experiment, whose own checks it must pass.
        """
        check_name("the sweep's folder", str(self.folder))
        self.search.check(self.axes, len(self.goals()))
        if self.folds < 1 or self.together < 0:
            raise ValueError(f"folds={self.folds} and together={self.together} are too small; give 1 and 0, or more")
        if self.together != 1 and self.folds > 1 and self.experiment.budget.steps is None:
            raise ValueError(
                "folds in one program take the same number of steps, which epochs of unequal folds aren't; give "
                "budget.steps, or together=1"
            )
        if self.together != 1 and self.search.pruner != "none":
            raise ValueError(
                f"pruner {self.search.pruner} stops one trial, and several are trained together in a program; use none"
            )
        for path, axis in self.axes.items():
            for value in axis.values if isinstance(axis, Choice) else (axis.low, axis.high):
                try:
                    self.with_values({path: value}).check()
                except ValueError as error:
                    raise ValueError(f"the space gives {path} the value {printable(value)}: {error}") from None
        self.search.slots(self.axes, self.trials)

    def check_measured(self, names: Sequence[str]) -> None:
        """Refuses an objective that is not among the names of what an evaluation gives.

        Raises:
          KeyError: with the nearest names.
        """
        for name, _ in self.goals():
            if name not in (*names, *COSTS):
                raise KeyError(
                    f"objective {printable(name)} isn't measured; the nearest of what is are "
                    f"{nearest(name, (*names, *COSTS))}"
                )

    def with_values(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with fields as a trial has them."""
        return override(self.experiment, tokens(values))

    def run_of(self, values: Mapping[str, Any], slot: int, fold: int | None = None) -> Experiment:
        """What a trial runs, of a fold where it is cross-validated."""
        experiment = self.with_values(values)
        if fold is not None:
            data = Folded(experiment.data, self.folds, fold, self.fold_kind, self.group, self.fold_seed)
            evaluation = dataclasses.replace(experiment.evaluation, on=None)
            experiment = dataclasses.replace(experiment, data=data, evaluation=evaluation)
        return dataclasses.replace(experiment, out=str(self.run_folder(slot, fold)))

    def run_folder(self, slot: int, fold: int | None = None) -> Path:
        """Of a trial; the slot's, so that a trial taken up again goes on from its checkpoint."""
        folder = self.folder / "trials" / f"{slot:04d}"
        return folder if fold is None else folder / f"fold-{fold}"

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep, as JSON."""
        experiment = finite(describe(self.experiment))
        return {
            "experiment": {name: value for name, value in experiment.items() if name not in NOT_IDENTITY},
            "space": {path: repr(axis) for path, axis in self.axes.items()},
            "folds": [self.folds, self.fold_kind, self.group, self.fold_seed],
            "objectives": [f"{mode}:{name}" for name, mode in self.goals()],
        }

    def open(self, worker: Worker | None = None) -> SharedStudy:
        """The study, made where there is none.

        Raises:
          ValueError: its storage holds another sweep, or can't be opened.
        """
        directions = [{"max": "maximize", "min": "minimize"}[mode] for _, mode in self.goals()]
        name = self.experiment.name
        return SharedStudy.open(self.address, name, self.axes, self.search, directions, self.identity(), worker)


def tokens(values: Mapping[str, Any]) -> list[str]:
    """Values as a command line writes them, which reads back to the same bits.

    Example:
      >>> tokens({"optimizer.learning_rate": 0.1 + 0.2, "data.labelled": None})
      ['--optimizer.learning_rate', '0.30000000000000004', '--data.labelled', 'None']
    """
    return [word for path, value in values.items() for word in (f"--{path}", str(value))]


def metric_of(scores: Mapping[str, Any], name: str, on: str | None, mode: str) -> float:
    """A metric at the end of a run, on the watched set; of several members the best.

    Raises:
      KeyError: it wasn't measured.
    """
    sets = scores.get("after", {})
    measured = sets.get(on) if on is not None else next(iter(sets.values()), None)
    if measured is None or name not in measured:
        known = ", ".join(measured or ()) or "none"
        raise KeyError(f"the objective {printable(name)} isn't measured; the evaluation gives {known}")
    value = measured[name]
    values = np.ravel(np.asarray(math.nan if value is None else value, np.float64))
    return float(values.max() if mode == "max" else values.min())


def mean(values: Sequence[Sequence[float]]) -> list[float]:
    """Each objective's mean over folds."""
    return [float(np.mean(column)) for column in zip(*values, strict=True)]
