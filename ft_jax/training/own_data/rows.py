"""Examples of one's own as rows of tokens, and as one task."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.data.collate import lengths
from ft_jax.data.dataset import Dataset
from ft_jax.data.description import summary
from ft_jax.training.specs import share, short
from ft_jax.training.stream import Feed, Stream, Task


def one_task(
    spec: Any,
    train: Dataset,
    held: Dataset | None,
    tokens: Callable,
    model: Any,
    feed: Feed,
    beside: Callable[[Dataset], Dataset] | None = None,
) -> Stream:
    """One task: examples as ``tokens(examples, model, address)`` makes them, shuffled, and those to measure.

    `beside` gives those that are trained on further columns.
    """
    made, name = tokens(train, model, spec.address), short(spec.address)
    other = None if held is None else tokens(held, model, spec.evaluation or spec.address)
    # One shape for all batches, no longer than the longest example needs.
    longest = max(longest_of(one) for one in (made, other) if one is not None)
    shape = {"length": min(-(-longest // MULTIPLE) * MULTIPLE, room(spec, model)), "padding": model.pad_token}
    read = made if beside is None else beside(made)
    source = data.batches(read, feed.batch_size, seed=feed.seed, **shape, **share(feed))
    measured = f"held-out {name}" if spec.evaluation is None else short(spec.evaluation)
    sets = {} if other is None else {measured: data.evaluation_batches(other, feed.batch_size, **shape)}
    return (Task(name, source, sets, len(made), classes=train.classes, columns=summary(train)),)


MULTIPLE = 8
"""Rows of a batch have a multiple of so many tokens."""


def room(spec: Any, model: Any) -> int:
    """The most tokens of an example: the spec's, and no more than the model takes."""
    positions = getattr(getattr(model, "config", None), "positions", None)
    return min(spec.length, positions) if isinstance(positions, int) else spec.length


def longest_of(tokens: Dataset) -> int:
    """The most tokens that an example of a tokenized data set has, in any of its parts."""
    return max(lengths(list(tokens)))


def in_pieces(tokens: Dataset, length: int) -> Dataset:
    """Next-token examples cut into pieces of at most `length` tokens; the last of a piece still learns what follows."""
    if all(len(ids) <= length for ids in tokens.column("input_ids")):
        return tokens
    pieces = [
        {name: np.asarray(column)[begin : begin + length] for name, column in one.items()}
        for one in tokens
        for begin in range(0, len(one["input_ids"]), length)
    ]
    return Dataset({name: [piece[name] for piece in pieces] for name in tokens.columns})


def tokenizer_of(model: Any) -> Any:
    """The model's tokenizer.

    Raises:
      ValueError: it has none.
    """
    if getattr(model, "tokenizer", None) is None:
        raise ValueError("the model has no tokenizer, so it can't read texts; give model.address one that has")
    return model.tokenizer
