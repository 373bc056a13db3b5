"""Trials that differ in numbers, trained as members of one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.catalogue import register
from ft_jax.core.members import Shared, map_members
from ft_jax.core.method import Method
from ft_jax.core.params import digest, nearest
from ft_jax.core.program import Events, Program
from ft_jax.core.state import TrainState
from ft_jax.tuning.schedules import Pbt, Schedule, as_schedule

Numbers = Mapping[str, Sequence[float]]


@register(
    "tuning",
    paper="Jaderberg et al. 2017, arXiv:1711.09846 (the population, whose schedule acts between steps)",
    example=lambda problem: population({"optimizer.learning_rate": [1e-3, 3e-3]}),
    neutral="its trials are whole runs without a weight; the members law compares each with a run of its own",
)
def population(
    numbers: Numbers,
    *,
    members: int | None = None,
    schedule: Schedule | str | None = None,
    metric: str = "loss",
    mode: str = "min",
    bounds: Mapping[str, tuple[float, float]] | None = None,
    name: str = "tuning.population",
) -> Method:
    """Trains one trial per value of some numbers, all in one program on one frozen base.

    Trial ``i`` has ``hyper[number] = numbers[number][i]`` and everything else alike, the key included, so
    trials differ by their numbers alone. The learned part, the optimizer's state and the memories exist
    once per trial, the frozen base once for all. Evaluation gives one prediction per member.

    With a schedule the population acts on itself after every evaluation, and nothing is compiled again: it stops
    trials, starts those that wait in their place, lets paused ones go on (`ft_jax.tuning.Asha`,
    `ft_jax.tuning.MedianStopping`), or copies and perturbs members (`ft_jax.tuning.Pbt`). There may then be more
    trials than members; `standings` tells how each did and `trial_state` gives its state. The number of the step is
    one for all, so a schedule of the learning rate runs with the program and not with a trial.

    Args:
      numbers: ``"method.number"`` to the trials' values, all of one length:
        ``{"optimizer.learning_rate": [1e-4, 1e-3], "distillation.logits.weight": [0.5, 1.0]}``.
      members: how many train at once; all by default. Fewer need a schedule with a queue.
      schedule: what stops, starts and copies: ``"asha"``, ``"median"``, ``"pbt"``, a value of their types, or None.
      metric: of the watched evaluation set, by which the schedule compares.
      mode: ``"max"`` if more of it is better, ``"min"`` if less.
      bounds: lowest and highest value of a number that a schedule perturbs.
      name: the method's name.

    Raises:
      ValueError: no numbers, lists of different lengths, or trials that no schedule would start.
      KeyError: when the state is made, for a number that no method has, with the nearest ones; at an evaluation, for
        a metric that isn't measured.

    Example:
      >>> population({"optimizer.learning_rate": [1e-3, 1e-2, 1e-1]}, members=2, schedule="asha").name
      'tuning.population'
    """
    lengths = {number: len(values) for number, values in numbers.items()}
    if not numbers or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"{name} needs one value per trial for each number, got lengths {lengths}; make them equal")
    trials = next(iter(lengths.values()))
    count, acts = trials if members is None else members, as_schedule(schedule)
    if not 1 <= count <= trials:
        raise ValueError(f"{name} has {trials} trials for {count} members; give from 1 to {trials} members")
    if count < trials and (acts is None or isinstance(acts, Pbt)):
        raise ValueError(
            f"{name} has {trials} trials and {count} members, and no schedule with a queue; use 'asha' or 'median', or "
            "a member for each"
        )
    if mode not in ("max", "min"):
        raise ValueError(f"{name} has mode {mode!r}; use 'max' or 'min'")
    for number, (low, high) in (bounds or {}).items():
        if number not in numbers or not low < high:
            raise ValueError(
                f"{name} has bounds {low:g} to {high:g} for {number!r}; name a number it varies, low first"
            )

    def lift(program: Program, build) -> Program:
        lifted = map_members(program, count, keys=lambda key: jnp.broadcast_to(key, (count,)), name=name)

        def init(params, key):
            state = lifted.init(params, key)
            own = state.replace(hyper=_spread(state.hyper, numbers, count))
            if acts is None:
                return own
            value = {
                "record": acts.start(count, trials),
                "trial": jnp.arange(count, dtype=jnp.int32),
                "evaluations": jnp.int32(0),
                "numbers": {full: jnp.asarray(values, jnp.float32) for full, values in numbers.items()},
            }
            if not isinstance(acts, Pbt):
                first = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], trials, axis=0), _kept(state, name))
                value["pool"] = {**first, "hyper": _spread(first["hyper"], numbers, trials)}
            return own.replace(memory={**own.memory, name: Shared(value, name)})

        def act(state, metrics):
            if metric not in metrics:
                raise KeyError(
                    f"{name} compares by {metric!r}, which isn't measured; the nearest are {nearest(metric, metrics)}"
                )
            scores = jnp.asarray(metrics[metric], jnp.float32)
            scores = scores.reshape(count, -1).mean(axis=1) * (1.0 if mode == "max" else -1.0)
            return _decided(state, acts, scores, bounds or {}, name)

        events = lifted.after_eval if acts is None else Events({**lifted.after_eval, name: act})
        return dataclasses.replace(lifted, init=init, after_eval=events)

    return Method(name=name, lift=lift)


def _spread(hyper, numbers: Numbers, count: int):
    """`hyper` with the first `count` trials' numbers in its leading axis."""
    hyper = {name: dict(values) for name, values in hyper.items()}
    for full, values in numbers.items():
        name, _, number = full.rpartition(".")
        if number not in hyper.get(name, {}):
            known = [f"{owner}.{one}" for owner, its in hyper.items() for one in its]
            raise KeyError(
                f"the population varies {full!r}, which nothing has; the nearest are {nearest(full, known)}; what "
                "changes shapes is a run of its own, but ranks under a maximum are ensemble.ranks.rank"
            )
        old: jax.Array = hyper[name][number]
        column = jnp.asarray(values[:count], old.dtype).reshape(-1, *(1,) * (old.ndim - 1))
        hyper[name][number] = jnp.broadcast_to(column, old.shape)
    return hyper


def _kept(state: TrainState, name: str) -> dict[str, Any]:
    """What makes a trial: all that has an axis of members, but for the key, which is the same for all."""
    memory = {other: value for other, value in state.memory.items() if other != name}
    return {"params": state.params, "opt_state": state.opt_state, "hyper": state.hyper, "memory": memory}


def _put_back(state: TrainState, kept: Mapping[str, Any], own: Shared, name: str) -> TrainState:
    return state.replace(
        params=kept["params"],
        opt_state=kept["opt_state"],
        hyper=kept["hyper"],
        memory={**kept["memory"], name: own},
    )


def _decided(state: TrainState, schedule: Schedule, scores, bounds, name: str) -> TrainState:
    """The state after the schedule has seen an evaluation."""
    own = state.memory[name].value
    key = jax.random.fold_in(state.key.reshape(-1)[0], digest(name))
    decide, explore = jax.random.split(jax.random.fold_in(key, own["evaluations"]))
    decision = schedule.decide(own["record"], own["trial"], scores, decide)
    kept = _kept(state, name)
    if "pool" in own:
        trials = jax.tree.leaves(own["pool"])[0].shape[0]
        place = jnp.where(own["trial"] >= 0, own["trial"], trials)
        pool = jax.tree.map(lambda all_, here: all_.at[place].set(here, mode="drop"), own["pool"], kept)
        changes = (decision.trial != own["trial"]) & (decision.trial >= 0)
        loaded = jax.tree.map(lambda leaf: leaf[jnp.maximum(decision.trial, 0)], pool)
        kept = jax.tree.map(lambda new, old: _where(changes, new, old), loaded, kept)
        own = {**own, "pool": pool}
    else:
        kept = jax.tree.map(lambda leaf: leaf[decision.copied], kept)
        kept = {**kept, "hyper": _explored(kept["hyper"], own["numbers"], schedule, decision, bounds, explore)}
    own = {**own, "record": decision.record, "trial": decision.trial, "evaluations": own["evaluations"] + 1}
    return _put_back(state, kept, Shared(own, name), name)


def _where(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _explored(hyper, numbers, schedule, decision, bounds, key):
    """The numbers that the population varies, perturbed where the schedule says so."""
    hyper = {name: dict(values) for name, values in hyper.items()}
    for full in numbers:
        name, _, number = full.rpartition(".")
        old = hyper[name][number]
        new = schedule.perturbed(old, jax.random.fold_in(key, digest(full)))
        if full in bounds:
            new = jnp.clip(new, *bounds[full])
        hyper[name][number] = _where(decision.explores, new.astype(old.dtype), old)
    return hyper


def standings(state: TrainState, name: str = "tuning.population") -> list[dict[str, Any]]:
    """How each trial of a population with a queue did, best first: by the furthest rung it reached, then its score.

    Args:
      state: of a population whose schedule is `ft_jax.tuning.Asha` or `ft_jax.tuning.MedianStopping`.
      name: the population's.

    Returns:
      For each trial ``trial``, ``evaluations``, ``scores`` (by rung or evaluation, more is better, None where it
      didn't get), ``numbers``.

    Raises:
      ValueError: a state without such a record.
    """
    own = getattr(state.memory.get(name), "value", {})
    if "scores" not in own.get("record", {}):
        raise ValueError(f"{name} keeps no standings; give it schedule='asha' or 'median'")
    record = jax.device_get(own["record"])
    rows = []
    for trial, scores in enumerate(np.asarray(record["scores"])):
        told = [None if np.isnan(score) else float(score) for score in scores]
        values = {full: float(column[trial]) for full, column in own["numbers"].items()}
        rows.append({"trial": trial, "evaluations": int(record["age"][trial]), "scores": told, "numbers": values})

    def rank(row):
        reached = [place for place, score in enumerate(row["scores"]) if score is not None and score > -np.inf]
        return (-reached[-1], -row["scores"][reached[-1]]) if reached else (1, 0.0)

    return sorted(rows, key=rank)


def trial_state(state: TrainState, trial: int, name: str = "tuning.population") -> TrainState:
    """The state of one trial as it was when it was last evaluated, as its own run would have it."""
    pool = state.memory[name].value["pool"]
    kept = jax.tree.map(lambda leaf: leaf[trial], pool)
    return state.replace(key=state.key[0], **kept)
