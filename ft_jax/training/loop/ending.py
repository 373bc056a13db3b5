"""How a run ends: its summary, its winner, the model it leaves, and how a finished one goes on."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from ft_jax.core import TrainState
from ft_jax.training.loop.numbers import numbers_of
from ft_jax.training.outcome import Outcome, outcomes
from ft_jax.training.prepare import Plan
from ft_jax.training.result import Progress, summarise
from ft_jax.training.run_folder import RunRefused
from ft_jax.training.serving.of_run import keep_of_run
from ft_jax.training.trials import Winner, winner_of


def summary_of(plan: Plan, state: TrainState, progress: Progress, status: str, wall: float) -> dict[str, Any]:
    """What ``summary.json`` says of a run whose state is on the devices."""
    summary = summarise(plan, progress, outcomes_of(plan, progress), status, wall)
    tables = progress.best_tables if plan.experiment.evaluation.keep_best else progress.tables
    if tables and status == "finished":
        summary |= {"confusion": {"classes": list(plan.classes), "sets": tables}}
    won = winner(plan, state, progress)
    return summary if won is None else {**summary, "winner": dataclasses.asdict(won)}


def outcomes_of(plan: Plan, progress: Progress) -> list[Outcome]:
    """What came of the experiment's expectations."""
    return outcomes(plan.experiment.expect, progress.scores, plan.watched(len(plan.stream) - 1))


def winner(plan: Plan, state: TrainState, progress: Progress) -> Winner | None:
    """The best of several trials, by the watched metric at the end."""
    spec, watched = plan.experiment.evaluation, plan.watched(len(plan.stream) - 1)
    scores = progress.scores.get("after", {}).get(watched, {})
    if not plan.program.trials or not scores:
        return None
    return winner_of(scores, numbers_of(plan.distributed.collect(state.hyper)), spec.metric, spec.mode)


def keep_model(
    plan: Plan, state: TrainState, progress: Progress, summary: dict[str, Any], unkept: str | None, folder: Path
) -> dict[str, Any]:
    """Leaves the model of a finished run in its folder; the summary, which says why where it can't."""
    if summary["status"] != "finished" or jax.process_index():
        return summary
    if unkept:
        return {**summary, "unkept": unkept}
    keep_of_run(plan, plan.distributed.collect(state), progress.scores.get("after", {}), folder)
    return summary


def check_going_on(plan: Plan, path: Path) -> None:
    """Raises RunRefused on a finished run that can't have more steps: its methods or tasks have moved on."""
    leaves = [part.name for part in plan.composition if part.after_task is not None]
    if len(plan.stream) > 1:
        raise RunRefused(
            f"run folder {path} is finished with {len(plan.stream)} tasks, and more steps would change all but the "
            "last after the fact; choose another with --out"
        )
    if leaves:
        raise RunRefused(
            f"run folder {path} is finished and {', '.join(leaves)} took leave of its task, so it has no more steps; "
            "choose another with --out"
        )


def going_on(plan: Plan, progress: Progress) -> tuple[Progress, str] | None:
    """Of a finished run that was given more steps: where it stands before its end, and under what schedule it goes on.

    None of any other.
    """
    if progress.task < len(plan.stream) or progress.ended is None or plan.steps[-1] <= progress.ended["steps"]:
        return None
    old, new = progress.ended["steps"], plan.total_steps
    message = f"went on to {new} steps"
    share = getattr(plan.experiment.optimizer, "share", None)
    if share is not None:
        before, after = float(share(progress.step - 1, old)), float(share(progress.step, new))
        message += (
            f" under the {plan.experiment.optimizer.schedule} schedule of {new}: the learning rate's share of its "
            f"peak was {before:.3g} in the last of {old} and is {after:.3g} in the next"
        )
    return progress.before_the_end(), message
