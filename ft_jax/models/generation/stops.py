"""Where a sequence ends: stop tokens and stop sequences, the same for all prompts or each prompt's own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

NOTHING = -1


@dataclasses.dataclass(frozen=True)
class Stops:
    """Stop sequences; a stop token is one of length one.

    Attributes:
      sequences: ``[1 or batch, stops, longest]`` ids, with -1 before shorter ones.
    """

    sequences: Int[Array, "rows stops longest"]

    @property
    def longest(self) -> int:
        """How many tokens a stop needs at most."""
        return self.sequences.shape[2]

    def met(self, recent: Int[Array, "batch longest"]) -> Bool[Array, " batch"]:
        """Whether a stop stands at the end of a sequence whose last tokens are `recent`."""
        same = (self.sequences == recent[:, None, :]) | (self.sequences == NOTHING)
        return (same.all(axis=-1) & (self.sequences != NOTHING).any(axis=-1)).any(axis=-1)

    def repeated(self, samples: int) -> "Stops":
        """For `samples` neighbouring continuations of each prompt."""
        return self if self.sequences.shape[0] == 1 else Stops(jnp.repeat(self.sequences, samples, axis=0))


jax.tree_util.register_dataclass(Stops, data_fields=["sequences"], meta_fields=[])


def stops_of(tokens: Any, sequences: Any, batch: int) -> Stops:
    """Stops as one array.

    Args:
      tokens: ids, or for each prompt its own ids.
      sequences: lists of ids, or for each prompt its own lists.
      batch: how many prompts there are.

    Raises:
      ValueError: where a stop sequence is empty, or there are stops of another number of prompts.

    Example:
      >>> stops_of((2,), [[5, 6]], batch=3).sequences.tolist()
      [[[-1, 2], [5, 6]]]
      >>> stops_of([(2,), (3,)], [], batch=2).sequences.tolist()
      [[[2]], [[3]]]
    """
    tokens, sequences = _lists(tokens), _lists(sequences)
    if not (tokens and all(isinstance(entry, list) for entry in tokens)):
        tokens = [tokens]
    if not any(isinstance(entry, list) for row in sequences for entry in row):
        sequences = [sequences]
    parts = [[[token] for token in row] for row in tokens], sequences
    for name, part in zip(("stop_tokens", "stop_sequences"), parts, strict=True):
        if len(part) not in (1, batch):
            raise ValueError(f"{name} are of {len(part)} prompts and the batch has {batch}; give one list, or one each")
    rows = max(map(len, parts))
    joined = [[stop for part in parts for stop in part[index % len(part)]] for index in range(rows)]
    if any(not sequence for row in joined for sequence in row):
        raise ValueError("a stop sequence is empty; give each at least one token")
    most = max(len(row) for row in joined)
    longest = max((len(sequence) for row in joined for sequence in row), default=1)
    array = np.full((rows, most, longest), NOTHING, np.int32)
    for index, row in enumerate(joined):
        for place, sequence in enumerate(row):
            array[index, place, longest - len(sequence) :] = sequence
    return Stops(jnp.asarray(array))


def _lists(value):
    """Nested sequences and arrays as nested lists."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_lists(entry) for entry in value]
    return value
