"""Examples to one batch: stacked, padded to few shapes, with weight 0 on what is not real."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.completions import IGNORED
from ft_jax.data.kinds import Kind, kinds_of
from ft_jax.outside import listed, printable

Length = int | Sequence[int] | None

FILLING = {"labels": IGNORED}
"""What padding holds where it isn't 0; ``input_ids`` have the padding token."""


def collate(
    examples: Sequence[Mapping[str, Any]],
    length: Length = None,
    padding: int = 0,
    kinds: Mapping[str, Kind] | None = None,
) -> dict[str, Any]:
    """One batch of numpy arrays ``[batch, ...]``: integers int32, floats float32.

    Where examples have ``input_ids``, their fields whose first axis is as long are token fields and are padded at its
    end: ``input_ids`` with ``padding``, ``labels`` with -1, all others with 0. ``attention_mask`` is added unless there
    is one, or ``segment_ids``. Parts such as ``chosen`` and ``rejected`` are padded to one length. Fields that are not
    numbers, such as texts, stay behind. A field that some examples lack, such as an image, is 0 there, and the part
    ``present`` says in which rows it is real.

    Args:
      examples: at least one.
      length: tokens of a row: a number, or a few (buckets) of which the smallest that takes the batch's longest
        sequence is used, so that few shapes are compiled; None is the longest itself.
      padding: id of the padding token.
      kinds: of the fields, decided over a whole data set (`ft_jax.data.kinds.kinds_of`), so that every batch has the
        same types; those that it lacks are decided by these examples alone.

    Raises:
      ValueError: a sequence is longer than ``length``; a field has values of different shapes.

    Example:
      >>> two = [{"input_ids": np.array([5, 6, 7]), "labels": 1}, {"input_ids": np.array([8]), "labels": 0}]
      >>> batch = collate(two, length=(4, 8))
      >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist(), batch["labels"].tolist()
      ([[5, 6, 7, 0], [8, 0, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]], [1, 0])
      >>> seen = collate([{"image": None, "labels": 1}, {"image": np.ones(2), "labels": 0}])
      >>> seen["image"].tolist(), seen["present"]["image"].tolist()
      ([[0.0, 0.0], [1.0, 1.0]], [0.0, 1.0])
    """
    longest = max(lengths(examples), default=0)
    return _collate(examples, bucket(longest, length), padding, kinds or {})


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

    Weights that are missing are 1, of the shape of whole-number ``labels``, or else one for each row. Parts that
    carry ``labels``, and all parts of a batch that has nothing else, are given weights in the same way.

    Example:
      >>> with_row_weights({"labels": np.array([1, 0, 0])}, real=2)["weights"].tolist()
      [1.0, 1.0, 0.0]
    """
    parts = {name: value for name, value in batch.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in batch.items() if name not in parts}
    # Where the batch has no field of its own that could say it, every part says which rows are real.
    weighted = {
        name: with_row_weights(part, real) if not plain or {"labels", "weights"} & part.keys() else dict(part)
        for name, part in parts.items()
    }
    if not plain:
        return weighted
    rows_of = next(iter(plain.values()))
    labels = plain.get("labels")
    # Several numbers are one label of an example; several whole numbers are a label a token each.
    shape = labels.shape if labels is not None and labels.dtype.kind in "iu" else (len(rows_of),)
    weights = plain.get("weights", np.ones(shape, dtype=np.float32))
    rows = (np.arange(len(rows_of)) < real).reshape((-1,) + (1,) * (weights.ndim - 1))
    return {**plain, **weighted, "weights": weights * rows.astype(np.float32)}


def lengths(examples: Sequence[Mapping[str, Any]]) -> Iterable[int]:
    """Lengths of all token sequences in the examples and their parts."""
    for example in examples:
        if example.get("input_ids") is not None:
            yield len(example["input_ids"])
        yield from lengths([part for part in example.values() if isinstance(part, Mapping)])


def _collate(
    examples: Sequence[Mapping[str, Any]], length: int, padding: int, kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    fields = dict.fromkeys(name for example in examples for name in example)
    columns = {name: [example.get(name) for example in examples] for name in fields}
    unknown = fields.keys() - kinds.keys()
    if unknown:
        found = kinds_of({name: columns[name] for name in fields if name in unknown or name == "input_ids"})
        kinds = {**found, **kinds}
    batch: dict[str, Any] = {}
    present = {}
    for name, values in columns.items():
        kind = kinds[name]
        if kind.parts is not None:
            batch[name] = _collate(values, length, padding, kind.parts)
        elif kind.dtype is not None:
            filling = FILLING.get(name, 0) if name != "input_ids" else padding
            batch[name] = _rows(name, values, kind, length, filling if kind.axes else 0)
            if kind.missing:
                present[name] = np.array([value is not None for value in values], np.float32)
    if "input_ids" in batch and not {"attention_mask", "segment_ids"} & batch.keys():
        sizes = np.array([0 if ids is None else len(ids) for ids in columns["input_ids"]])
        batch["attention_mask"] = (np.arange(batch["input_ids"].shape[1]) < sizes[:, None]).astype(np.int32)
    if present and "present" in batch:
        raise ValueError(
            f"examples lack {listed(present)}, of which the part 'present' tells, and the data has a column of that "
            "name; rename it"
        )
    return {**batch, "present": present} if present else batch


def _rows(name: str, values: Sequence, kind: Kind, length: int, filling: int) -> np.ndarray:
    if kind.shape is None:
        shapes = {np.shape(value) for value in values if value is not None}
        if len(shapes) > 1 or not shapes:
            raise ValueError(
                f"field {printable(name)} has values of the shapes {listed(map(str, sorted(shapes)))} in one batch; "
                "bring them to one shape, or drop the column with select"
            )
        kind = dataclasses.replace(kind, shape=next(iter(shapes)))
    rows = np.full((len(values), *(length,) * kind.axes, *kind.shape), filling, kind.dtype)
    for place, value in enumerate(values):
        if value is None:
            continue
        array = np.asarray(value)
        if array.shape[kind.axes :] != kind.shape or array.ndim < kind.axes:
            raise ValueError(
                f"field {printable(name)} has a value of shape {array.shape} and one of {kind.shape}"
                f"{' a token' if kind.axes else ''} in one batch; bring them to one shape, or drop the column"
            )
        rows[(place, *(slice(size) for size in array.shape[: kind.axes]))] = array
    return rows


def of_one_length(batches: Sequence[Mapping[str, Any]], padding: int = 0) -> list[dict[str, Any]]:
    """Batches whose rows are all as long as the longest batch's, as `collate` would have padded them.

    A part's token fields are those whose first axis after the rows is as long as its ``input_ids``' in every batch, and
    where the lengths differ a second axis likewise. Batches without a mask get one.

    Args:
      batches: with the same fields.
      padding: id of the padding token.

    Example:
      >>> short, long = {"input_ids": np.array([[5, 6]])}, {"input_ids": np.array([[7, 8, 9]])}
      >>> made, _ = of_one_length([short, long])
      >>> made["input_ids"].tolist(), made["attention_mask"].tolist()
      ([[5, 6, 0]], [[1, 1, 0]])
    """
    batches = [dict(batch) for batch in batches]
    for name, first in batches[0].items():
        if isinstance(first, Mapping):
            parts = of_one_length([batch[name] for batch in batches], padding)
            batches = [{**batch, name: part} for batch, part in zip(batches, parts, strict=True)]
    if "input_ids" not in batches[0]:
        return batches
    sizes = [batch["input_ids"].shape[1] for batch in batches]
    if len(set(sizes)) == 1:
        return batches
    if not {"attention_mask", "segment_ids"} & batches[0].keys():
        batches = [{**one, "attention_mask": np.ones(one["input_ids"].shape, np.int32)} for one in batches]
    axes = {}
    for name, first in batches[0].items():
        shapes = [() if isinstance(first, Mapping) else np.shape(batch[name])[1:3] for batch in batches]
        along = [
            all(shape[axis : axis + 1] == (size,) for shape, size in zip(shapes, sizes, strict=True)) for axis in (0, 1)
        ]
        axes[name] = 2 if all(along) else int(along[0])
    return [
        {
            name: _longer(value, max(sizes), axes[name], padding if name == "input_ids" else FILLING.get(name, 0))
            for name, value in batch.items()
        }
        for batch in batches
    ]


def _longer(value: Any, length: int, axes: int, filling: int) -> Any:
    if not axes:
        return value
    array = np.asarray(value)
    more = [(0, 0), *((0, length - array.shape[axis]) for axis in range(1, 1 + axes))]
    return np.pad(array, more + [(0, 0)] * (array.ndim - len(more)), constant_values=filling)
