"""Trials that differ in numbers of the state alone, as members of one program."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ft_jax.training.composition import Use
from ft_jax.training.experiment import Experiment
from ft_jax.training.fit import fit
from ft_jax.training.prepare import prepare
from ft_jax.training.stream import Feed, first_batch
from ft_jax.training.sweeps.sweep import COSTS, Interrupted, Sweep
from ft_jax.training.sweeps.together import AllFolds
from ft_jax.tuning import cross_validation


def numbers_of(experiment: Experiment, paths: Iterable[str]) -> dict[str, str]:
    """Which field paths are numbers of the state, as ``method.number``; the others change shapes or structure.

    ``hyper.…`` is one by name, ``optimizer.…`` where the optimizer has it, and ``method.NAME.OPTION`` where the
    built method's number of that name is the option's value.

    Args:
      experiment: with the values of one trial.
      paths: to look at.
    """
    plan = prepare(experiment, outline=True)
    hyper = plan.abstract.hyper
    given = {part.name: dict(part.hyper) for part in plan.composition}
    options = {use.options.get("name", use.name): use.options for use in experiment.method if isinstance(use, Use)}
    found = {}
    for path in paths:
        head, _, rest = path.partition(".")
        owner, _, number = rest.rpartition(".")
        if head == "hyper" and number in hyper.get(owner, {}):
            found[path] = rest
        elif head == "optimizer" and rest.rpartition(".")[2] in hyper["optimizer"] and rest != "name":
            found[path] = f"optimizer.{rest.rpartition('.')[2]}"
        elif head == "method" and number in hyper.get(owner, {}) and number in given.get(owner, {}):
            value = options.get(owner, {}).get(number)
            if value is not None and not isinstance(value, str) and float(given[owner][number]) == float(value):
                found[path] = rest
    return found


def judged_together(sweep: Sweep, values: Sequence[Mapping[str, Any]], slots: Sequence[int]) -> list[list[float]]:
    """The objectives of trials trained as members, their folds too, each as its own run would have them.

    Raises:
      ValueError: an objective that members don't have one by one.
    """
    shared = [name for name, _ in sweep.goals() if name in COSTS]
    if shared:
        raise ValueError(f"objective {shared[0]} is one number for a whole program; use together=1 with it")
    experiment = as_members(sweep, values, slots[0])
    result = fit(experiment, quiet=True, command=("ft-jax", "sweep"))
    if result.status != "finished":
        raise Interrupted
    sets = result.scores["after"]
    measured = sets[experiment.evaluation.on] if experiment.evaluation.on else next(iter(sets.values()))
    # A member that diverged has None for a score; its trial fails, the others stand.
    table = [[math.nan if x is None else x for x in _listed(measured[name])] for name, _ in sweep.goals()]
    return np.array(table).reshape(len(table), len(values), sweep.folds).mean(axis=2).T.tolist()


def as_members(sweep: Sweep, values: Sequence[Mapping[str, Any]], slot: int) -> Experiment:
    """One experiment whose members are the trials of those values, each with all its folds."""
    numbers = numbers_of(sweep.with_values(values[0]), sweep.axes)
    columns = {full: [one[path] for one in values for _ in range(sweep.folds)] for path, full in numbers.items()}
    experiment = sweep.run_of(values[0], slot)
    methods = experiment.method
    if sweep.folds > 1:
        data = AllFolds(experiment.data, sweep.folds, sweep.fold_kind, sweep.group, sweep.fold_seed)
        feed = Feed(experiment.budget.batch_size, experiment.seed)
        methods = (lambda parts: cross_validation(data.examples(parts.model, feed)), *methods)
        columns["tuning.cross_validation.fold"] = [float(fold) for _ in values for fold in range(sweep.folds)]
        evaluation = dataclasses.replace(experiment.evaluation, on=None)
        experiment = dataclasses.replace(experiment, data=data, evaluation=evaluation)
    experiment = dataclasses.replace(
        experiment,
        method=(Use("tuning.population", numbers=columns), *methods),
        out=f"{experiment.out}-with-{len(values) - 1}-more",
    )
    return experiment


def bytes_of_step(experiment: Experiment) -> int:
    """Memory of a compiled training step: its state, its batch and all that it makes on the way."""
    plan = prepare(experiment)
    batch = first_batch(plan.stream[0])
    analysis = jax.jit(plan.program.step, donate_argnums=0).lower(plan.abstract, batch).compile().memory_analysis()
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(held + analysis.temp_size_in_bytes)


def fitting(sweep: Sweep, limit: int | None = None) -> int:
    """How many trials fit into memory as members of one program, by the steps compiled for one and for two.

    Args:
      sweep: what is tried.
      limit: bytes; nine tenths of the device's memory by default, and half of what is free on a CPU.
    """
    limit = device_bytes() if limit is None else limit
    values = {path: axis.at(0.5) for path, axis in sweep.axes.items()}
    if not numbers_of(sweep.with_values(values), sweep.axes):
        return 1
    one, two = (bytes_of_step(as_members(sweep, [values] * count, 0)) for count in (1, 2))
    return max(1, int((limit - one) // max(two - one, 1)) + 1)


def device_bytes() -> int:
    """Memory that a program may take."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.9 * stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2


def _listed(value) -> list:
    return value if isinstance(value, list) else np.asarray(value, object).ravel().tolist()
