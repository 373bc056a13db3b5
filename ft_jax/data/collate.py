"""Examples to one batch: stacked, padded to few shapes, with weight 0 on what is not real."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.completions import IGNORED

Length = int | Sequence[int] | None


def collate(examples: Sequence[Mapping[str, Any]], length: Length = None, padding: int = 0) -> dict[str, Any]:
    """One batch of numpy arrays ``[batch, ...]``: integers int32, floats float32.

    Where an example has ``input_ids``, its fields of the same length are token fields and are padded at the end:
    ``input_ids`` with ``padding``, ``labels`` with -1, all others with 0. ``attention_mask`` is added unless there is
    one, or ``segment_ids``. Parts such as ``chosen`` and ``rejected`` are padded to one length. Fields that are not
    numbers, such as texts, stay behind.

    Args:
      examples: at least one, all with the same fields.
      length: tokens of a row: a number, or a few (buckets) of which the smallest that takes the batch's longest
        sequence is used, so that few shapes are compiled; None is the longest itself.
      padding: id of the padding token.

    Raises:
      ValueError: a sequence is longer than ``length``; a field has values of different shapes.

    Example:
      >>> two = [{"input_ids": np.array([5, 6, 7]), "labels": 1}, {"input_ids": np.array([8]), "labels": 0}]
      >>> batch = collate(two, length=(4, 8))
      >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["labels"].tolist()
      ([[5, 6, 7, 0], [8, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]], [1, 0])
    """
    longest = max(lengths(examples), default=0)
    return _collate(examples, bucket(longest, length), padding)


def bucket(longest: int, length: Length) -> int:
    """The row length for a batch whose longest sequence has ``longest`` tokens.

    Raises:
      ValueError: it is longer than the largest allowed.

    Example:
      >>> bucket(40, (32, 64, 128)), bucket(40, None), bucket(40, 128)
      (64, 40, 128)
    """
    if length is None:
        return longest
    allowed = sorted(length) if isinstance(length, Iterable) else [length]
    if longest > allowed[-1]:
        raise ValueError(
            f"a sequence of {longest} tokens is longer than the {allowed[-1]} of a row; "
            "raise length, or cut it with too_long='truncate' when tokenizing"
        )
    return next(size for size in allowed if size >= longest)


def with_row_weights(batch: Mapping[str, Any], real: int) -> dict[str, Any]:
    """The batch with ``weights`` in it, 0 in every row from ``real`` on; parts with weights of their own too.

    Weights that are missing are 1, of the shape of ``labels``, or one for each row where there are none. Parts that
    carry ``labels`` are given weights in the same way.

    Example:
      >>> with_row_weights({"labels": np.array([1, 0, 0])}, real=2)["weights"].tolist()
      [1.0, 1.0, 0.0]
    """
    parts = {name: value for name, value in batch.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in batch.items() if name not in parts}
    weighted = {
        name: with_row_weights(part, real) if {"labels", "weights"} & part.keys() else dict(part)
        for name, part in parts.items()
    }
    if not plain:
        return weighted
    rows_of = next(iter(plain.values()))
    counted = plain.get("labels", np.zeros(len(rows_of)))
    weights = plain.get("weights", np.ones(counted.shape, dtype=np.float32))
    rows = (np.arange(len(rows_of)) < real).reshape((-1,) + (1,) * (weights.ndim - 1))
    return {**plain, **weighted, "weights": weights * rows.astype(np.float32)}


def lengths(examples: Sequence[Mapping[str, Any]]) -> Iterable[int]:
    """Lengths of all token sequences in the examples and their parts."""
    for example in examples:
        if "input_ids" in example:
            yield len(example["input_ids"])
        yield from lengths([part for part in example.values() if isinstance(part, Mapping)])


def _collate(examples: Sequence[Mapping[str, Any]], length: int, padding: int) -> dict[str, Any]:
    batch = {}
    for name, first in examples[0].items():
        values = [example[name] for example in examples]
        if isinstance(first, Mapping):
            batch[name] = _collate(values, length, padding)
        elif _is_token_field(examples[0], name):
            filling = {"input_ids": padding, "labels": IGNORED}.get(name, 0)
            batch[name] = _narrow(_padded(values, length, filling))
        elif _is_number(first):
            batch[name] = _narrow(_stacked(name, values))
    if "input_ids" in batch and not {"attention_mask", "segment_ids"} & batch.keys():
        sizes = np.array([len(example["input_ids"]) for example in examples])
        batch["attention_mask"] = (np.arange(batch["input_ids"].shape[1]) < sizes[:, None]).astype(np.int32)
    return batch


def _is_token_field(example: Mapping[str, Any], name: str) -> bool:
    if "input_ids" not in example or np.ndim(example[name]) != 1:
        return False
    return _is_number(example[name]) and len(example[name]) == len(example["input_ids"])


def _is_number(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "biuf" if not isinstance(value, str) else False


def _padded(values: Sequence[Sequence], length: int, filling: int) -> np.ndarray:
    rows = np.full((len(values), length), filling, dtype=np.asarray(values[0]).dtype)
    for row, value in zip(rows, values, strict=True):
        row[: len(value)] = value
    return rows


def _stacked(name: str, values: Sequence) -> np.ndarray:
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"field {name!r} has values of the shapes {', '.join(map(str, sorted(shapes)))} in one batch; "
            "bring them to one shape, or drop the column with select"
        )
    return np.stack([np.asarray(value) for value in values])


def _narrow(array: np.ndarray) -> np.ndarray:
    """The types that the device computes with; uint8 images keep theirs until the model scales them."""
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array.astype(np.int32) if array.dtype.kind in "iu" and array.dtype != np.uint8 else array
