"""Where a run pauses between steps."""

from typing import Any

from ft_jax.training.experiment import Experiment


def next_stop(experiment: Experiment, progress: Any, steps: int) -> int:
    """Updates on the task after which a stretch ends: the next evaluation, checkpoint, change or the task's end.

    Args:
      experiment: of the run.
      progress: where it stands.
      steps: of the task.
    """
    done = progress.done
    stops = [every for every in (experiment.evaluation.every, experiment.checkpoints.every) if every]
    changes = [done + at - progress.step for at in experiment.hyper_at if at > progress.step]
    return min([steps, *changes, *(done - done % every + every for every in stops)])


def due(progress: Any, *every: int | None) -> bool:
    """Whether so many updates, or a multiple, are done on the task."""
    return any(number and progress.done % number == 0 for number in every)


def compiling(plan: Any, progress: Any) -> str:
    """What the first step waits for."""
    methods = " + ".join(plan.composition.names) or "no method"
    return f"the step of {methods}, batches of {progress.batches * plan.experiment.budget.batch_size}"
