"""What the columns of a data set are: their types and their roles, decided once, for all rows together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.tables import Table
from ft_jax.outside import printable

TEXTS = ("text", "prompt", "completion", "chosen", "rejected")
"""Columns that are read as texts (the last four also as lists of messages), never as numbers."""

NEEDED = (*TEXTS, "messages", "labels")
"""Columns of which a row must have a value where the file has the column."""

WRITTEN = ("text", "completion", "chosen", "rejected")
"""Of these, columns in which an empty field of a csv or tsv is no value; an empty prompt is a prompt."""

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def typed_columns(table: Table) -> dict[str, Sequence]:
    """A file's columns in types that all of their rows share.

    Numbers become an array, int64 or float64, where every row has one; lists of numbers become arrays of one type over
    all rows, floats where any is one. A column with rows that have no value stays a list with None there. The words of
    a csv are numbers where all of a column are; those of `TEXTS` are always texts, and ``007`` is no number.

    Raises:
      ValueError: a row has no value in a column of `NEEDED` (in a csv or tsv also an empty one of `WRITTEN`), or a
        value of `TEXTS` is neither a text nor messages.
    """
    made = {}
    for name, values in table.columns.items():
        if name in TEXTS or name == "messages":
            _check_texts(table, name, values)
            made[name] = list(values)
        elif name == "labels":
            made[name] = values  # Labels have rules of their own, see `ft_jax.data.labels`.
        else:
            made[name] = as_numbers(words_as_numbers(values) if table.written else values)
    return made


def _check_texts(table: Table, name: str, values: Sequence) -> None:
    filled = table.written and name in WRITTEN
    for place, value in enumerate(values):
        if filled and not value:
            value = None
        if isinstance(value, str) or (name != "text" and isinstance(value, list | tuple)):
            continue
        said = "has no value" if _missing(value) else f"holds {printable(value, 40)}, which is no text"
        raise ValueError(f"{table.where(place)}, column {printable(name)} {said}; give it one or drop the row")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and np.isnan(value))


def words_as_numbers(words: Sequence[str]) -> Sequence:
    """Numbers where all words are, with None for an empty one; the words elsewhere.

    Example:
      >>> words_as_numbers(["1", "", "-2"]), words_as_numbers(["1", "2.5"]), words_as_numbers(["007", "1"])
      ([1, None, -2], [1.0, 2.5], ['007', '1'])
    """
    said = [word.strip() for word in words]
    filled = [word for word in said if word]
    if (
        filled
        and all(WHOLE.fullmatch(word) for word in filled)
        and all(len(word) < 24 and abs(int(word)) < 2**63 for word in filled)
    ):
        return [int(word) if word else None for word in said]
    numeric = (DECIMAL.fullmatch(word) and not re.match(r"[+-]?0[0-9]", word) for word in filled)
    if filled and all(numeric):
        return [float(word) if word else None for word in said]
    return list(words)


def _whole(word: str) -> bool:
    # Python itself refuses to read a number of thousands of digits.
    return len(word) < 24 and WHOLE.fullmatch(word) is not None and abs(int(word)) < 2**63


def as_numbers(values: Sequence) -> Sequence:
    """A column in one type: an array where all values are numbers of one shape, arrays of one type, or the list.

    Example:
      >>> as_numbers([[1, 1, 0], [0.5, 0.25]])
      [array([1., 1., 0.]), array([0.5 , 0.25])]
      >>> as_numbers([1, 2.5]), as_numbers([1, None])
      (array([1. , 2.5]), [1, None])
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    held = [value for value in values if value is not None]
    if not held:
        return list(values)
    arrays = [_array(value) for value in held]
    if any(array is None for array in arrays):
        return list(values)
    kind = np.result_type(*{array.dtype for array in arrays})
    if len(held) < len(values):
        filled = iter(arrays)
        made = [None if value is None else next(filled).astype(kind) for value in values]
        return [value if value is None or value.ndim else value.item() for value in made]
    if len({array.shape for array in arrays}) == 1:
        return np.stack([array.astype(kind, copy=False) for array in arrays])
    return [array.astype(kind, copy=False) for array in arrays]


def _array(value: Any) -> np.ndarray | None:
    """Numbers of a value, or None where it holds anything else or is ragged."""
    if isinstance(value, str | bytes | Mapping):
        return None
    if isinstance(value, list | tuple) and not value:
        return np.zeros(0, np.int64)
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None
