"""What the fields of examples become in a batch: one type, one shape and one role for all examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.outside import printable

LARGEST = 2**31 - 1
"""The largest whole number that a batch holds."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One field's.

    Attributes:
      dtype: that its values share; None for a field that is not of numbers and stays behind.
      axes: how many of its first axes are the tokens', 0 for a field of one shape.
      shape: of one example's value, or of one token's where `axes` is not 0; None where it differs.
      missing: whether an example may lack it.
      parts: of a field that is a mapping, its fields'.
    """

    dtype: np.dtype | None = None
    axes: int = 0
    shape: tuple[int, ...] | None = ()
    missing: bool = False
    parts: Mapping[str, "Kind"] | None = None


def kinds_of(columns: Mapping[str, Sequence]) -> dict[str, Kind]:
    """The kinds of fields, from the values of all examples.

    A field is one of tokens where its first axis is as long as ``input_ids`` in every example; then a second axis is
    too, where it is as long in every example and the lengths differ.

    Args:
      columns: by field, one value an example: arrays, lists, numbers, mappings, or None where there is none.

    Raises:
      ValueError: an example lacks a part that others have, or a number is beyond 32 bits.

    Example:
      >>> kinds = kinds_of({"input_ids": [[5, 6], [7]], "weights": [[1, 1], [0.5]], "box": [None, [1, 2, 3]]})
      >>> kinds["weights"].axes, str(kinds["weights"].dtype), kinds["box"].shape, kinds["box"].missing
      (1, 'float32', (3,), True)
    """
    ids = columns.get("input_ids")
    sizes = None if ids is None else np.array([0 if one is None else len(one) for one in ids])
    return {name: _kind(name, column, sizes) for name, column in columns.items()}


def _kind(name: str, column: Sequence, sizes: np.ndarray | None) -> Kind:
    if isinstance(column, np.ndarray) and column.dtype != object:
        return _of_arrays(name, [column[0]], column, sizes, False) if column.dtype.kind in "biuf" else Kind()
    held = [value for value in column if value is not None]
    if held and all(isinstance(value, Mapping) for value in held):
        return _of_parts(name, held, len(held) < len(column))
    arrays = [_numbers(value) for value in held]
    if not held or any(array is None for array in arrays):
        return Kind(missing=len(held) < len(column))
    missing = len(held) < len(column)
    kept = sizes if sizes is None or not missing else sizes[[value is not None for value in column]]
    return _of_arrays(name, arrays, None, kept, missing)


def _of_parts(name: str, held: Sequence[Mapping], missing: bool) -> Kind:
    if missing:
        raise ValueError(
            f"some examples have no part {printable(name)} and others do; give all of them one, or drop the column"
        )
    fields = dict.fromkeys(field for value in held for field in value)
    return Kind(parts=kinds_of({field: [value.get(field) for value in held] for field in fields}))


def _of_arrays(name: str, arrays: Sequence[np.ndarray], whole: np.ndarray | None, sizes, missing: bool) -> Kind:
    shapes = {array.shape for array in arrays}
    dtype = _narrowed(name, np.result_type(*{array.dtype for array in arrays}), arrays if whole is None else [whole])
    axes = 0
    if sizes is not None and name != "input_ids":
        lengths = np.array([array.shape[:2] + (-1,) * (2 - min(array.ndim, 2)) for array in arrays])
        first, second = (lengths[:, axis] == sizes for axis in (0, 1))
        axes = int(first.all()) and 1 + int(second.all() and len(set(sizes.tolist())) > 1)
    elif name == "input_ids":
        axes = 1
    rest = {shape[axes:] for shape in shapes}
    return Kind(dtype, axes, next(iter(rest)) if len(rest) == 1 else None, missing)


def _narrowed(name: str, dtype: np.dtype, arrays: Sequence[np.ndarray]) -> np.dtype:
    """The types that the device computes with; uint8 images keep theirs until the model scales them."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind not in "iu" or dtype == np.uint8:
        return dtype
    if dtype.itemsize > 4 or dtype == np.uint32:
        for array in arrays:
            if array.size and (int(array.max()) > LARGEST or int(array.min()) < -LARGEST - 1):
                worst = int(array.flat[np.abs(array.astype(np.float64)).argmax()])
                raise ValueError(
                    f"field {printable(name)} holds {worst}, and batches hold numbers of 32 bits; drop the column with "
                    "select, or make it smaller"
                )
    return np.dtype(np.int32)


def _numbers(value: Any) -> np.ndarray | None:
    if isinstance(value, str | bytes | Mapping):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None
