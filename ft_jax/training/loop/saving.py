"""What a run saves on its way, and takes up again."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import TrainState
from ft_jax.training.checkpoint import Checkpoints
from ft_jax.training.prepare import Plan
from ft_jax.training.result import Progress
from ft_jax.training.run_folder import RunFolder, finite


class Saving:
    """A run's checkpoints of state and progress.

    Args:
      plan: of the run.
      folder: of the run.
      state: on the devices, for its shapes.
    """

    def __init__(self, plan: Plan, folder: RunFolder, state: TrainState):
        self._plan, self._distributed = plan, plan.distributed
        self.checkpoints = Checkpoints(
            folder.path / "checkpoints",
            plan.composition.names,
            self._distributed.collect(state),
            plan.experiment.checkpoints.keep,
        )
        self._since = time.perf_counter()

    def grow(self, plan: Plan, state: TrainState) -> None:
        """Goes on with checkpoints of a state of other shapes."""
        self._plan, self._distributed = plan, plan.distributed
        self.checkpoints.expect(self._distributed.collect(state))

    def task(self) -> int:
        """The number of the task at which the newest checkpoint that is whole stands; 0 where none is."""
        record = self.checkpoints.record()
        return 0 if record is None else record["progress"]["task"]

    def wall(self, progress: Progress) -> float:
        """Seconds that the run has taken in all."""
        return progress.wall + time.perf_counter() - self._since

    def save(self, state: TrainState, progress: Progress, kind: str = "last") -> Progress:
        """Starts writing a checkpoint; the progress as it was written."""
        progress = dataclasses.replace(progress, wall=self.wall(progress))
        self._since = time.perf_counter()
        record = {"progress": finite(dataclasses.asdict(progress.told()))}
        self.checkpoints.save(self._distributed.collect(state.replace(frozen=None)), record, kind)
        return progress

    def restored(self, frozen: Any, kind: str = "last") -> tuple[TrainState, Progress]:
        """State and progress of the newest checkpoint, with the frozen part, which no checkpoint holds."""
        state, record = self.checkpoints.restore(kind)
        return self._distributed.spread(state).replace(frozen=frozen), Progress(**record["progress"])

    def best(self, frozen: Any) -> TrainState | None:
        """With keep_best, the state that was best, where there is one."""
        self.checkpoints.wait()
        if not self._plan.experiment.evaluation.keep_best or self.checkpoints.newest("best") is None:
            return None
        return self.restored(frozen, "best")[0]

    def lost(self, state: TrainState, metrics: dict[str, Any] | None) -> bool:
        """Whether a state is not worth saving, for its loss or parameters are not finite."""
        if metrics and not np.isfinite(np.asarray(jax.device_get(metrics["loss"]))).any():
            return True
        single = not self._plan.program.trials and not self._plan.composition.inwards("lift")
        return single and not bool(np.all(jax.device_get(_all_finite(state.params))))

    def kept(self) -> str:
        """What there is to go on from, in words."""
        self.checkpoints.wait()
        good = self.checkpoints.newest()
        return "no checkpoint was saved yet" if good is None else f"the checkpoint of step {good} is kept"


@jax.jit
def _all_finite(tree):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)] or [jnp.bool_(True)]))
