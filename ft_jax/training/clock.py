"""Time spent training, read when a step is done and not when it is sent to the devices."""

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Time spent making batches on policy.

    Attributes:
      seconds: so far in this task.
      beside: whether they pass while the devices compute updates.
    """

    seconds: float
    beside: bool


class Stretch:
    """Seconds of training up to now, of which one stretch of steps without a pause is going on.

    Steps are sent ahead of the devices, so what a step took is known when its metrics are there: the log reads
    `seconds` then, on its own thread. What follows the stretch, such as an evaluation, is no training.

    Args:
      before: seconds of training before it.
      timed: whether it counts at all; the step that compiles does not.
    """

    def __init__(self, before: float, timed: bool):
        self._before, self._timed = before, timed
        self._begin, self._end = time.perf_counter(), None

    def seconds(self) -> float:
        """Seconds of training so far, this stretch's with them."""
        if not self._timed:
            return self._before
        now = time.perf_counter() if self._end is None else self._end
        return self._before + now - self._begin

    def end(self) -> float:
        """Ends the stretch, all of whose steps are done; `seconds` from here on."""
        self._end = time.perf_counter()
        return self.seconds()
