"""A worker: takes trials that wait and runs them until none is left."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optuna

from ft_jax.training.fit import fit
from ft_jax.training.prepare import prepare
from ft_jax.training.process import set_up_process
from ft_jax.training.result import Diverged, Moment, Result
from ft_jax.training.stream import Feed
from ft_jax.training.sweeps.members import fitting, judged_together, numbers_of
from ft_jax.training.sweeps.sweep import COSTS, Interrupted, Sweep, mean, metric_of
from ft_jax.tuning.search import Choice, SharedStudy, Worker

POLL = 1.0
"""Seconds between looks at the storage while others still run trials that may be lost."""

Told = Callable[[str], None]


class Pruned(Exception):
    """A trial is given up early."""


def try_out(sweep: Sweep) -> None:
    """Builds model and data at two corners of the space; what both refuse is refused before anything is written.

    Raises:
      KeyError: an objective that an evaluation does not give, with the nearest.
      ValueError, FileNotFoundError, ...: what the experiment refuses at both corners in the same words. What one of
        them refuses is left to the trials, of which the others go on.
    """
    set_up_process()
    first: Exception | None = None
    for corner in (0, -1):
        values = {
            path: axis.values[corner] if isinstance(axis, Choice) else (axis.low, axis.high)[corner]
            for path, axis in sweep.axes.items()
        }
        try:
            plan = prepare(sweep.run_of(values, 0, 0 if sweep.folds > 1 else None), outline=True)
        except Exception as error:
            if first is not None and (type(first), str(first)) == (type(error), str(error)):
                raise
            first = error
        else:
            return sweep.check_measured(plan.measured)


def work(sweep: Sweep, worker: Worker | None = None, told: Told = lambda line: None, *, tried: bool = False) -> bool:
    """Runs trials of a sweep until all have ended; False where it was interrupted.

    Any number of processes on any computers may do so over one storage. A trial that can't be built, diverges or
    has an objective that is not a number fails with its reason, and the others go on.

    Args:
      sweep: what to try.
      worker: this process, among others.
      told: called with a line on each trial that ends.
      tried: whether `try_out` has been called.

    Raises:
      KeyError, ValueError, FileNotFoundError: as `try_out`, before a storage is opened.
    """
    if not tried:
        try_out(sweep)
    study = sweep.open(worker)
    together = sweep.together or fitting(sweep)
    while True:
        study.retry_lost()
        asked = study.ask(together)
        if not asked:
            if not study.running():
                return True
            time.sleep(POLL)
            continue
        try:
            with study.alive([trial for trial, _ in asked]):
                for group in _alike(sweep, asked):
                    _run(sweep, study, group, told)
        except (Interrupted, KeyboardInterrupt):
            for trial, _ in asked:
                study.give_back(trial)
            return False


def _run(sweep: Sweep, study: SharedStudy, group: Sequence[tuple[optuna.Trial, dict]], told: Told) -> None:
    """Trials of one program, one by one or as members."""
    begin = time.perf_counter()
    try:
        if len(group) == 1:
            found = [_judged(sweep, *group[0])]
        else:
            found = _members(sweep, group)
    except (Interrupted, KeyboardInterrupt):
        raise
    except Pruned as error:
        study.prune(group[0][0], str(error))
        found = []
    except Diverged as error:
        found = _failed(study, group, f"diverged: {error}")
    except Exception as error:
        found = _failed(study, group, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    for (trial, _), values in zip(group, found, strict=False):
        study.tell(trial, values)
    seconds = (time.perf_counter() - begin) / len(group)
    for trial, values in group:
        told(line(study.study.trials[trial.number], values, seconds))


def _failed(study, group, why):
    for trial, _ in group:
        study.fail(trial, why)
    return []


def line(trial: optuna.trial.FrozenTrial, values: Mapping[str, Any], seconds: float) -> str:
    """What is said of a trial that has ended."""
    state = trial.state.name.lower()
    result = ", ".join(f"{value:.4g}" for value in trial.values) if trial.values else trial.user_attrs.get("why", "")
    chosen = " ".join(f"{path}={value}" for path, value in values.items())
    return f"trial {trial.user_attrs.get('slot', trial.number)} {state}: {result}  ({chosen}; {seconds:.1f} s)"


def _judged(sweep: Sweep, trial: optuna.Trial, values: Mapping[str, Any]) -> list[float]:
    """The objectives of one trial, over its folds."""
    slot = trial.user_attrs["slot"]
    if sweep.folds == 1:
        return _objectives(sweep, sweep.run_of(values, slot), _pruning(sweep, trial))
    found: list[list[float]] = []
    for fold in range(sweep.folds):
        found.append(_objectives(sweep, sweep.run_of(values, slot, fold)))
        trial.set_user_attr("folds", found)
        if not all(map(math.isfinite, found[-1])):
            break
        if sweep.search.pruner != "none":
            trial.report(found[-1][0], fold)
            if fold + 1 < sweep.folds and trial.should_prune():
                raise Pruned(f"worse than the best after {fold + 1} of {sweep.folds} folds, mean {mean(found)[0]:.4g}")
    return mean(found)


def _pruning(sweep: Sweep, trial: optuna.Trial) -> Callable[[Moment], None] | None:
    """A callback that gives the trial up when its evaluations are worse than others'."""
    if sweep.search.pruner == "none":
        return None
    [(name, mode)] = sweep.goals()

    def look(moment: Moment) -> None:
        if moment.kind != "evaluation":
            return
        value = metric_of({"after": moment.scores}, name, sweep.experiment.evaluation.on, mode)
        if math.isfinite(value) and moment.step not in seen:
            seen.add(moment.step)
            trial.report(value, moment.step)
            if trial.should_prune():
                raise Pruned(f"worse than others at step {moment.step}, {name} {value:.4g}")

    seen: set[int] = set()
    return look


def _objectives(sweep: Sweep, experiment, look=None) -> list[float]:
    result = fit(experiment, quiet=True, callbacks=() if look is None else (look,), command=("ft-jax", "sweep"))
    if result.status != "finished":
        raise Interrupted
    return [_objective(experiment, result, name, mode) for name, mode in sweep.goals()]


def _objective(experiment, result: Result, name: str, mode: str) -> float:
    if name not in COSTS:
        return metric_of(result.scores, name, experiment.evaluation.on, mode)
    if name == "parameters":
        return float(result.summary["parameters"]["trainable"])
    if name == "seconds":
        return float(result.summary["seconds"])
    return latency(experiment, result)


def latency(experiment, result: Result, repeats: int = 7) -> float:
    """Milliseconds of one evaluation batch, the median of some after the first."""
    stream = experiment.data.build(result.model, Feed(experiment.budget.batch_size, experiment.seed))
    stream = stream if isinstance(stream, tuple) else (stream,)
    batch = next(iter(next(iter(stream[-1].evaluations.values()))))
    evaluate = jax.jit(result.program.evaluate)
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        jax.block_until_ready(evaluate(result.state, batch))
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times[1:]))


def _alike(sweep: Sweep, asked: Sequence[tuple[optuna.Trial, dict]]) -> list[list[tuple[optuna.Trial, dict]]]:
    """Trials in groups that one program can train: those that differ in numbers of the state alone."""
    if len(asked) == 1:
        return [list(asked)]
    try:
        numbers = numbers_of(sweep.with_values(asked[0][1]), sweep.axes)
    except Exception:
        # What is wrong with this trial shows when it is run by itself, with its own reason.
        return [[one] for one in asked]
    groups: dict[str, list] = {}
    for trial, values in asked:
        key = repr([(path, value) for path, value in values.items() if path not in numbers])
        groups.setdefault(key, []).append((trial, values))
    return list(groups.values())


def _members(sweep: Sweep, group) -> list[list[float]]:
    return judged_together(sweep, [values for _, values in group], [trial.user_attrs["slot"] for trial, _ in group])
