"""What a run keeps for its report of how its state answers, before training and after."""

from pathlib import Path

from ft_jax.core import TrainState
from ft_jax.outside import one_line
from ft_jax.training.logging import Log
from ft_jax.training.loop.answers import keep_answers
from ft_jax.training.loop.pictured import keep_pictured
from ft_jax.training.prepare import Plan


def keep_shown(plan: Plan, state: TrainState, phase: str, folder: Path, log: Log) -> None:
    """Answers to prompts in both phases, and after training what several modalities came to.

    A run does not fail for want of a picture: why there is none is an event of its log.
    """
    keep_answers(plan, state, phase, folder)
    if phase != "after":
        return
    try:
        keep_pictured(plan, state, folder)
    except Exception as error:
        step = int(plan.distributed.collect(state.step).reshape(-1)[0])
        log.event(step, "report", f"what several modalities came to is not pictured: {one_line(error)}")
