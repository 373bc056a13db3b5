"""What a run does where a step is not to be gone on from: back to a checkpoint, or the end."""

import collections
import dataclasses
from pathlib import Path
from typing import Any

import jax

from ft_jax.core import TrainState
from ft_jax.training.logging import Log
from ft_jax.training.loop.nonfinite import ALL_SKIPPED, MOST_RETURNS, Broken, keep_batch, skipped
from ft_jax.training.loop.saving import Saving
from ft_jax.training.on_policy import Place
from ft_jax.training.result import Diverged, Progress


class Returns:
    """The ways back of a run.

    Args:
      way: what is done, see `Experiment.nonfinite`.
      saving: the run's checkpoints.
      folder: where what broke a step is kept.
    """

    def __init__(self, way: str, saving: Saving, folder: Path):
        self._way, self._saving, self._folder = way, saving, folder
        self._times: collections.Counter = collections.Counter()

    def after(self, broken: Broken, frozen: Any) -> tuple[TrainState, Progress, str]:
        """State and progress of the last good checkpoint, behind the batch that broke a step, and what to tell of it.

        Raises:
          Diverged: the run goes back nowhere, or has been there too often.
        """
        saving = self._saving
        kept, good = saving.kept(), saving.checkpoints.newest()
        if self._way == "go_back" and good is not None and self._times[good] < MOST_RETURNS:
            self._times[good] += 1
            state, progress = saving.restored(frozen)
            # What the broken policy made is not trained on.
            place = broken.place.anew() if isinstance(broken.place, Place) else broken.place
            message = f"{broken}: went back to the checkpoint of step {good}, and on behind that step's batch"
            return state, dataclasses.replace(progress, place=place), message
        first = jax.process_index() == 0 and broken.batch is not None
        where = f", its batch is in {keep_batch(self._folder, broken.step, broken.batch)}" if first else ""
        raise Diverged(
            f"{broken} ({kept}{where}); lower optimizer.learning_rate, set optimizer.max_norm, or go on with "
            "--nonfinite skip or go_back"
        )


class Skips:
    """Counts the steps that were skipped between two saves, where that is what is done.

    Args:
      way: see `Experiment.nonfinite`.
      step: where the run stands.
      state: there.
    """

    def __init__(self, way: str, step: int, state: TrainState):
        self._counts = way == "skip"
        self._before = (step, skipped(state) or 0)

    def count(self, state: TrainState) -> int | None:
        """How many there were in all; None where nothing skips."""
        return skipped(state) if self._counts else None

    def tell(self, step: int, count: int | None, log: Log) -> None:
        """A line of the log at a save, where steps were skipped.

        Raises:
          Diverged: all since the last save were skipped.
        """
        if count is None:
            return
        (since, before), self._before = self._before, (step, count)
        if count == before:
            return
        message = f"{count - before} steps since step {since} were skipped, for their gradient was not finite"
        log.event(step, "nonfinite", message)
        if count - before == step - since >= ALL_SKIPPED:
            raise Diverged(f"{message}, and no other was made; lower optimizer.learning_rate or look at the data")
