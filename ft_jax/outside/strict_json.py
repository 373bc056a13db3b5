"""JSON files of others: objects alone, of bounded size and depth, without a name twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.outside.damage import one_line
from ft_jax.outside.names import printable

LARGEST = 64 << 20
"""Bytes of a JSON file that are read at all; a tokenizer of 256,000 tokens takes half of it."""

DIGITS = 300
"""Of a whole number; a longer one is no float."""


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no file, is larger than `largest` bytes, or `parse_json` refuses it.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file; give the file's place")
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{path} has {size} bytes, and no more than {largest} are read as JSON; is it that file?")
    return parse_json(path.read_bytes(), str(path))


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
    """The object in JSON text, in which NaN and Infinity may stand (Python writes them) but no name twice.

    Raises:
      ValueError: it is no UTF-8, no JSON, nested too deeply, holds a number of hundreds of digits, names a field
        twice, or is no object.

    Example:
      >>> parse_json(b'{"a": 1}', "a.json")
      {'a': 1}
    """
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not JSON (byte {error.start} is no UTF-8); get it again") from None
    except RecursionError:
        raise ValueError(f"{where} is not readable as JSON (it is nested too deeply); get it again") from None
    except ValueError as error:  # JSONDecodeError, a name twice, and the limit of digits
        raise ValueError(f"{where} is not JSON ({one_line(error).partition(';')[0]}); get it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {printable(content, 40)}; it must be a JSON object")
    return content


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"it holds a whole number of {len(digits)} digits")
    return int(digits)


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` that raises ValueError where an object names a field twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {printable(twice, 40)} twice")
    return fields
