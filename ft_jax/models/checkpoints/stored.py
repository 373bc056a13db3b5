"""A tensor in a file, not read yet."""

import dataclasses
from collections.abc import Callable

import numpy as np

FLOAT32 = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint file.

    Attributes:
      shape: its dimensions, outermost first.
      load: reads it.
      dtype: the type that `load` gives.
      slab: ``(begin, end)`` to those rows of the outermost dimension, without reading the others; None where the
        tensor can only be read whole.
      kind: GGUF's name of the blocks that it is stored in, such as ``"Q8_0"``; empty for plain numbers.
      raw: reads the blocks' bytes, ``[..., bytes a row]``; None for plain numbers.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    dtype: np.dtype = FLOAT32
    slab: Callable[[int, int], np.ndarray] | None = None
    kind: str = ""
    raw: Callable[[], np.ndarray] | None = None

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Rows `begin` to `end` of the outermost dimension."""
        return self.load()[begin:end] if self.slab is None else self.slab(begin, end)
