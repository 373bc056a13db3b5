"""What becomes of a step whose loss or gradient is not finite: which it was, what it was trained on, what follows."""

import collections
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax.assets.cache import replacing
from ft_jax.core import Composition, TrainState, compose
from ft_jax.core.params import path_of
from ft_jax.training.limits import MASKED, carries
from ft_jax.training.stream import Fed

IN_FLIGHT = 8
"""Steps that may be queued on the devices; more would only hold memory."""

MOST_RETURNS = 3
"""How often a run goes back to the same checkpoint."""

ALL_SKIPPED = 8
"""So many steps that were all skipped, or had nothing to learn from, end a run."""

GUARD = "adaptive.spike_guard"


class Broken(ValueError):
    """A step that is not to be gone on from.

    Attributes:
      step: its number.
      what: of it is not finite, ``"loss"`` or ``"gradient"``.
      batch: what it was trained on, as it was on the host; None where that is not known.
      place: in the data after it.
    """

    def __init__(self, step: int, what: str, batch: Any, place: Any):
        super().__init__(f"the {what} is not finite at step {step}")
        self.step, self.what, self.batch, self.place = step, what, batch, place


class Watch:
    """Looks at each step once it is computed; a step's numbers are on their way to the host as soon as they are there.

    Attributes:
      empty: steps whose batches carried no loss, since they were last asked for.

    Args:
      watched: metrics that must be finite, in the order in which they are told.
    """

    def __init__(self, watched: tuple[str, ...]):
        self._watched = watched
        self._queue: collections.deque = collections.deque()
        self._idle = 0
        self.empty: list[int] = []

    def add(self, step: int, metrics: dict[str, Any], fed: Fed) -> None:
        """Takes note of a step, and waits for the one that was queued so many before it.

        Raises:
          Broken: that one is not finite.
        """
        told = {name: metrics[name] for name in self._watched if name in metrics}
        for value in told.values():
            if hasattr(value, "copy_to_host_async"):
                value.copy_to_host_async()
        self._queue.append((step, metrics, told, fed.host, fed.place))
        if len(self._queue) > IN_FLIGHT:
            self._look()

    def tell(self, log: Any) -> None:
        """A line of the log where batches had nothing to learn from."""
        steps, self.empty = self.empty, []
        if steps:
            message = f"nothing carried loss in the batches of {len(steps)} steps, the first is {steps[0]}: {MASKED}"
            log.event(steps[-1], "data", message)

    def end(self) -> None:
        """Waits for all of them.

        Raises:
          Broken: one is not finite; the first is told.
        """
        while self._queue:
            self._look()

    def _look(self):
        step, metrics, told, batch, place = self._queue.popleft()
        jax.block_until_ready(metrics)
        self._note_empty(step, metrics, batch)
        for name, value in told.items():
            # Of several trials one may be lost; where all are, the run is.
            if not np.isfinite(np.asarray(jax.device_get(value), np.float64)).any():
                self._queue.clear()
                raise Broken(step, "gradient" if name == "gradient_norm" else name, batch, place)

    def _note_empty(self, step, metrics, batch):
        """Notes a step without loss, and raises ValueError where a run makes no other and methods add nothing."""
        empty = not carries(batch)
        still = empty and not np.any(jax.device_get(metrics.get("gradient_norm", 1.0)))
        self._idle = self._idle + 1 if still else 0
        self.empty += [step] if empty else []
        if self._idle == ALL_SKIPPED:
            raise ValueError(
                f"nothing in the {self._idle} batches up to step {step} carries loss: {MASKED}; correct the labels"
            )


def watch(way: str, composition: Composition) -> Watch:
    """What is looked at: nothing where steps are skipped, and no gradients where a guard is there for them."""
    if way == "skip":
        return Watch(())
    return Watch(("loss",) if GUARD in composition.names else ("loss", "gradient_norm"))


def guarded(composition: Composition, way: str) -> Composition:
    """The composition in which a step that is not finite changes nothing, where that is what is asked for."""
    if way != "skip" or GUARD in composition.names:
        return composition
    from ft_jax.adaptive import spike_guard

    # A threshold that no finite norm is above.
    return compose(spike_guard(threshold=1e30, window=2, warmup=2), composition)


def keep_batch(folder: Path, step: int, batch: Any) -> Path:
    """Writes what a step was trained on as an npz file of its fields, and says where."""
    path = folder / f"batch-of-step-{step}.npz"
    fields = {path_of(place): np.asarray(leaf) for place, leaf in jax.tree_util.tree_leaves_with_path(dict(batch))}
    with replacing(path) as file:
        np.savez(file, **{name.replace("/", "."): leaf for name, leaf in fields.items()})
    return path


def skipped(state: TrainState) -> int | None:
    """How many steps were skipped so far, of the trial that skipped the fewest; None where nothing skips."""
    own = state.memory.get(GUARD)
    return None if own is None else int(np.min(jax.device_get(own["skipped"])))
