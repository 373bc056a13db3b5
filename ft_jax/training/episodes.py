"""Data for agents, which live through their own: batches of seeds, and held-out episodes to play."""

import dataclasses
from typing import Any

import numpy as np

from ft_jax.training.stream import Feed, Stream, Task


class Counted:
    """An endless source of batches of seeds that nothing reads; its place is a count."""

    def __init__(self, size: int):
        self.size, self.count = size, 0

    def __next__(self):
        """The next seeds."""
        first = self.count * self.size
        self.count += 1
        return {"seed": (np.arange(first, first + self.size) % 2**31).astype(np.int32)}

    def __iter__(self):
        return self

    def get_state(self) -> int:
        """How many batches were given."""
        return self.count

    def set_state(self, state: int) -> None:
        """Goes on after so many."""
        self.count = int(state)


@dataclasses.dataclass(frozen=True)
class Episodes:
    """A stream for agents in an environment (`ft_jax.rl.agents`): what they learn from they collect in the step.

    Attributes:
      held_out: episodes of every evaluation, each from a seed that stays the same.
      name: of the task and of the evaluation set.
    """

    held_out: int = 100
    name: str = "episodes"

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, whose evaluation set are the seeds of the held-out episodes."""
        if self.held_out < 1:
            raise ValueError(f"Episodes.held_out is {self.held_out}; give at least 1 episode to evaluate on")
        seeds = np.arange(self.held_out, dtype=np.int32)
        size = min(self.held_out, 128)
        batches = [{"seed": seeds[start : start + size]} for start in range(0, self.held_out, size)]
        return (Task(self.name, Counted(feed.batch_size), {self.name: batches}, None),)
