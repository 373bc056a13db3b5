"""Data sets in files of one's own: jsonl, csv, parquet and npz."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import assets
from ft_jax.data.dataset import Dataset, as_column, columns_of

SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def from_file(address: str | Path, split: str | None = None) -> Dataset:
    """A data set in one file, by its ending: ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet`` or ``.npz``.

    Args:
      address: a path, or any address that `ft_jax.assets.resolve` takes.
      split: ``train``, ``validation`` or ``test`` of a fixed split of about 80, 10 and 10 per cent, by a digest of
        the example's content, so that equal examples stay together; None for all.

    Returns:
      A column for each field, an array where all its values are numbers of one shape. A column ``label`` is called
      ``labels``, and names in it are turned to class ids.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the ending is of no known format, the file is damaged or empty, or there is no such split.
    """
    path = assets.resolve(address)
    if path.suffix not in READERS:
        raise ValueError(f"{path.name!r} is of no known format; give a file that ends in {', '.join(READERS)}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"{path.name} has no split {split!r}; take one of {', '.join(SPLITS)}, or None for all of it")
    columns = READERS[path.suffix](path)
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{path} has no examples; give a file with at least one")
    dataset = Dataset(columns)
    if "label" in columns and "labels" not in columns:
        dataset = dataset.rename(labels="label")
    if "labels" in dataset.columns and isinstance(dataset.columns["labels"][0], str):
        dataset = dataset.encode_labels()
    if split is None:
        return dataset
    contents = [json.dumps(example, sort_keys=True, default=_written) for example in dataset]
    parts = Dataset({"place": np.arange(len(dataset)), "content": contents}).split(SPLITS, by="content")
    return dataset.take(parts[split].columns["place"])


def _written(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _jsonl(path: Path) -> Mapping[str, Any]:
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path} line {number} is not JSON ({error.msg}); correct or drop it") from error
                if not isinstance(record, dict):
                    raise ValueError(f"{path} line {number} is a {type(record).__name__}; write an object of fields")
                records.append(record)
    return columns_of(records)


def _csv(path: Path) -> Mapping[str, Any]:
    import pyarrow.csv

    separator = "\t" if path.suffix == ".tsv" else ","
    options = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True, quote_char='"')
    try:
        return _arrow(pyarrow.csv.read_csv(path, parse_options=options))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not readable as {path.suffix[1:]} ({_first_line(error)}); correct it") from error


def _parquet(path: Path) -> Mapping[str, Any]:
    import pyarrow.parquet

    try:
        return _arrow(pyarrow.parquet.read_table(path))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not readable as parquet ({_first_line(error)}); write it again") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _arrow(table) -> Mapping[str, Any]:
    from pyarrow import types

    columns = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        numeric = types.is_floating(values.type) or types.is_integer(values.type)
        columns[name] = values.to_numpy() if numeric else as_column(values.to_pylist())
    return columns


def _npz(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not readable as npz ({_first_line(error)}); write it with numpy.savez") from error


READERS = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".npz": _npz}
