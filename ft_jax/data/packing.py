"""Several sequences in one row, so that a decoder computes few padding tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ft_jax.data.checks import check_columns, check_lengths, check_not_empty
from ft_jax.data.completions import IGNORED
from ft_jax.data.dataset import Dataset


def pack(dataset: Dataset, length: int, padding: int = 0) -> Dataset:
    """Rows of ``length`` tokens, each made of whole sequences that don't see each other.

    Sequences go, longest first, into the fullest row that still takes them: best-fit decreasing (Ding et al. 2024,
    "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3). Nothing is cut.

    Args:
      dataset: with ``input_ids``, ``labels`` and ``weights`` of each example's own length, as
        `ft_jax.data.next_tokens` makes them: labels shifted within the example, so none crosses into the next.
      length: tokens of a row.
      padding: id of the padding token.

    Returns:
      ``input_ids``, ``labels`` (-1 without a target), ``weights`` (0 there), ``segment_ids`` (1, 2, … along the row, 0
      for padding) and ``positions`` (from 0 in every segment), each ``[rows, length]``.

    Raises:
      KeyError: a column is missing.
      ValueError: the set is empty, or a sequence is longer than a row.

    Example:
      >>> three = Dataset({
      ...     "input_ids": [np.array([5, 6]), np.array([7, 8, 9]), np.array([4])],
      ...     "labels": [np.array([6, -1]), np.array([8, 9, -1]), np.array([-1])],
      ...     "weights": [np.array([1.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.array([0.0])],
      ... })
      >>> packed = pack(three, length=4)
      >>> packed.columns["input_ids"].tolist()
      [[7, 8, 9, 4], [5, 6, 0, 0]]
      >>> packed.columns["segment_ids"].tolist()
      [[1, 1, 1, 2], [1, 1, 0, 0]]
      >>> packed.columns["positions"].tolist()
      [[0, 1, 2, 0], [0, 1, 0, 0]]
    """
    check_columns(check_not_empty(dataset), ("input_ids", "labels", "weights"))
    check_lengths(dataset, length)
    ids = dataset.columns["input_ids"]
    rows = best_fit([len(sequence) for sequence in ids], length)
    columns = {
        "input_ids": np.full((len(rows), length), padding, dtype=np.int32),
        "labels": np.full((len(rows), length), IGNORED, dtype=np.int32),
        "weights": np.zeros((len(rows), length), dtype=np.float32),
        "segment_ids": np.zeros((len(rows), length), dtype=np.int32),
        "positions": np.zeros((len(rows), length), dtype=np.int32),
    }
    for row, examples in enumerate(rows):
        start = 0
        for segment, example in enumerate(examples, 1):
            place = slice(start, start + len(ids[example]))
            for name in ("input_ids", "labels", "weights"):
                columns[name][row, place] = dataset.columns[name][example]
            columns["segment_ids"][row, place] = segment
            columns["positions"][row, place] = np.arange(len(ids[example]))
            start = place.stop
    return dataclasses.replace(dataset, columns=columns)


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Items gathered into bins by best-fit decreasing; equal sizes go in their order.

    Args:
      sizes: of the items, each at most ``capacity``.
      capacity: of a bin.

    Returns:
      Indices of the items in every bin.

    Example:
      >>> best_fit([2, 3, 1, 2], 4)
      [[1, 2], [0, 3]]
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for item in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        room = next((room for room in range(sizes[item], capacity + 1) if with_room[room]), None)
        if room is None:
            bins.append([item])
            which, left = len(bins) - 1, capacity - sizes[item]
        else:
            which, left = with_room[room].pop(), room - sizes[item]
            bins[which].append(item)
        with_room[left].append(which)
    return bins
