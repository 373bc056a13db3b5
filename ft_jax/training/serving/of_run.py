"""What a run hands over to its folder at the end: the model, of several trials the best one's."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ft_jax import assets
from ft_jax.core import TrainState, parameters
from ft_jax.core.members import member
from ft_jax.training.composition import Parts
from ft_jax.training.prepare import Plan
from ft_jax.training.serving.kept import keep, unkeepable
from ft_jax.training.serving.trees import Unwritable, take_apart
from ft_jax.training.serving.wrapping import described, uses_that_wrap
from ft_jax.training.trials import best_trial


def seen(plan: Plan, state: TrainState, trial: int | None = None) -> TrainState:
    """The state with the whole tree of parameters as the model sees them; of several trials that of one."""
    state = state if trial is None else member(state, trial)
    return state.replace(params=parameters(state, plan.composition))


def wrapped(plan: Plan, state: TrainState) -> dict[str, Any] | None:
    """The methods that wrap the forward pass, of a state as `seen` gives it; None where there are none.

    Raises:
      Unwritable: one can't be written down.
    """
    if not plan.composition.inwards("forward"):
        return None
    example = plan.shapes[0][0]
    parts = Parts(plan.model, example, plan.total_steps, jax.random.key(0))
    return described(uses_that_wrap(plan.experiment.method, plan.composition, parts), plan.composition, state, example)


def why_unkeepable(plan: Plan) -> str | None:
    """Why the run's model will not be usable from its folder, known before the run starts; None where it will."""
    trials = plan.program.trials
    if len(trials) > 1:
        return f"its trials lie in {len(trials)} axes, of which no one model is the best"
    fused = bool(plan.composition.inwards("lift")) and not trials
    if fused:
        return unkeepable(plan.model, {}, fused)
    shapes = jax.eval_shape(lambda state: seen(plan, state, 0 if trials else None), plan.abstract)
    try:
        take_apart(wrapped(plan, shapes))
    except Unwritable as error:
        return str(error)
    return unkeepable(plan.model, shapes.params["model"], fused)


def keep_of_run(plan: Plan, state: TrainState, scores: Mapping[str, Any], run: Path) -> None:
    """Writes the model into the run's folder.

    Args:
      plan: of the run.
      state: its last or best one, gathered.
      scores: by evaluation set, after the run.
      run: the folder.
    """
    trial = None
    if plan.program.trials:
        spec = plan.experiment.evaluation
        watched = plan.watched(len(plan.stream) - 1)
        trial = best_trial(scores.get(watched, {}), spec.metric, spec.mode) or 0
    whole = seen(plan, state, trial)
    base, reads = base_of(plan.experiment.model), reads_of(plan.experiment.data)
    keep(run, plan.model, whole.params["model"], base, reads, wrapped(plan, whole))


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
    fields = ("length", "too_long")
    return {name: getattr(spec, name) for name in fields if isinstance(getattr(spec, name, None), int | str)}
