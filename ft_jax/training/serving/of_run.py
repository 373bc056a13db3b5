"""What a run hands over to its folder at the end: the model, of several trials the best one's."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import assets
from ft_jax.core import Composition, TrainState, compose, make_step, parameters
from ft_jax.core.members import member
from ft_jax.training.composition import Parts
from ft_jax.training.objective import outline_of
from ft_jax.training.prepare import Plan
from ft_jax.training.serving.kept import keep, unkeepable
from ft_jax.training.serving.trees import Unwritable, take_apart
from ft_jax.training.serving.wrapping import around, described, uses_of
from ft_jax.training.trials import best_trial


def seen(plan: Plan, state: TrainState) -> TrainState:
    """The state with the whole tree of parameters as the model sees them; of several members those of the first."""
    while np.ndim(state.key):
        state = member(state, 0)
    return state.replace(params=parameters(state, plan.composition))


def standing_round(plan: Plan) -> Composition:
    """What answers need of the run's methods: forward passes, and of fused answers all that makes them.

    A lift that keeps its members apart, as trials, is no part of it: one of them is kept.

    Raises:
      Unwritable: trials that stand inside of what fuses.
    """
    does = {name: _lifts(lift) for name, lift in plan.composition.inwards("lift")}
    apart = [name for name in does if does[name] == "trials"]
    fusing = [name for name in does if does[name] == "fuses"]
    if apart and fusing and list(does).index(apart[0]) < list(does).index(fusing[-1]):
        raise Unwritable(f"{fusing[-1]} fuses what {apart[0]} keeps apart; name {apart[0]} before it")
    inside = compose(*(part for part in plan.composition if part.name not in apart))
    return around(inside, fused=bool(fusing))


def _lifts(lift: Callable) -> str | None:
    """What a lift does to a program's evaluation: ``"trials"`` keep members apart, others ``"fuses"`` them."""
    plain = make_step(None, optax.identity(), compose())
    lifted = lift(plain, lambda *composition, **how: plain)
    if lifted.trials:
        return "trials"
    return None if lifted.evaluate is plain.evaluate else "fuses"


def wrapped(plan: Plan, state: TrainState, whole: TrainState) -> dict[str, Any] | None:
    """The methods that stand round the model, of a run's state or one trial's; None where there are none.

    Args:
      plan: of the run.
      state: the run's, or its shapes.
      whole: what `seen` makes of it.

    Raises:
      Unwritable: one can't be written down.
    """
    wanted = standing_round(plan)
    if not len(wanted):
        return None
    example = plan.shapes[0][0]
    parts = Parts(plan.model, example, plan.total_steps, jax.random.key(0))
    fused = wanted.inwards("lift")
    if fused and outline_of(plan.model, example).unembedding is None:
        raise Unwritable(f"its answers are vectors, which {fused[0][0]} does not fuse")
    uses = uses_of(plan.experiment.method, wanted, parts)
    return described(uses, wanted, state if fused else whole, example)


def why_unkeepable(plan: Plan) -> str | None:
    """Why the run's model will not be usable from its folder, known before the run starts; None where it will."""
    trials = plan.program.trials
    if len(trials) > 1:
        return f"its trials lie in {len(trials)} axes, of which no one model is the best"
    state = jax.eval_shape(lambda state: member(state, 0), plan.abstract) if trials else plan.abstract
    shapes = jax.eval_shape(lambda state: seen(plan, state), state)
    try:
        take_apart(wrapped(plan, state, shapes))
    except Unwritable as error:
        return str(error)
    return unkeepable(plan.model, shapes.params["model"])


def keep_of_run(plan: Plan, state: TrainState, scores: Mapping[str, Any], run: Path) -> None:
    """Writes the model into the run's folder.

    Args:
      plan: of the run.
      state: its last or best one, gathered.
      scores: by evaluation set, after the run.
      run: the folder.
    """
    if plan.program.trials:
        spec = plan.experiment.evaluation
        watched = plan.watched(len(plan.stream) - 1)
        state = member(state, best_trial(scores.get(watched, {}), spec.metric, spec.mode) or 0)
    whole = seen(plan, state)
    base, reads = base_of(plan.experiment.model), reads_of(plan.experiment.data)
    keep(run, plan.model, whole.params["model"], base, reads, wrapped(plan, state, whole))


def base_of(spec: Any) -> dict[str, Any] | None:
    """Where the parameters that a run leaves alone came from; None for a model that is not from an address."""
    if not hasattr(spec, "base"):
        return None
    base = dict(spec.base())
    if "://" not in base["address"]:
        base["address"] = os.fspath(Path(assets.resolve(base["address"])).resolve())
    return base


def reads_of(spec: Any) -> dict[str, Any]:
    """How the run's data was turned to tokens, as far as plain values say it."""
    fields = ("length", "too_long", "prompt")
    return {name: getattr(spec, name) for name in fields if isinstance(getattr(spec, name, None), int | str)}
