"""A tensor in a file, not read yet."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint file.

    Attributes:
      shape: its dimensions, outermost first.
      load: reads it.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
