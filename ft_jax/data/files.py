"""Data sets in files of one's own: jsonl, json, csv, tsv, parquet and npz."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import assets
from ft_jax.data.columns import typed_columns, words_as_numbers
from ft_jax.data.dataset import Dataset
from ft_jax.data.labels import read_labels
from ft_jax.data.tables import Table, read_table
from ft_jax.outside import printable

NO_WORDS = ("", "None", "nan", "NaN", "null", "NULL", "<NA>")
"""What programs write into a csv for a label that is not there."""

SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def from_file(address: str | Path, split: str | None = None, quotes: bool | None = None) -> Dataset:
    """A data set in one file, by its ending in any case.

    ``.jsonl``, ``.json``, ``.csv`` and ``.tsv``, each also with ``.gz``, ``.parquet`` or ``.npz``.

    Args:
      address: a path, or any address that `ft_jax.assets.resolve` takes.
      split: ``train``, ``validation`` or ``test`` of a fixed split of about 80, 10 and 10 per cent, by a digest of
        the example's content, so that equal examples stay together; None for all.
      quotes: whether ``"`` encloses fields of a csv or tsv; None for yes in a csv and no in a tsv.

    Returns:
      A column for each field in types that hold for all rows, see `ft_jax.data.columns.typed_columns`. A column
      ``label`` is called ``labels``; what its values become is in `ft_jax.data.labels.read_labels`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the ending is of no known format, the file is damaged or empty, a row lacks a text or a label, or
        there is no such split.
    """
    path = assets.resolve(address)
    if split is not None and split not in SPLITS:
        raise ValueError(
            f"{path.name} has no split {printable(split)}; take one of {', '.join(SPLITS)}, or None for all of it"
        )
    dataset = dataset_of(read_table(path, quotes))
    if split is None:
        return dataset
    contents = [json.dumps(example, sort_keys=True, default=_written) for example in dataset]
    parts = Dataset({"place": np.arange(len(dataset)), "content": contents}).split(SPLITS, by="content")
    return dataset.take(parts[split].columns["place"])


def dataset_of(table: Table) -> Dataset:
    """A file's rows as a data set, its columns' types and roles decided for all of them at once.

    Raises:
      ValueError: a row lacks a text or a label, or labels can't mean one thing.
    """
    columns = dict(table.columns)
    if "label" in columns and "labels" in columns:
        raise ValueError(f"{table.path} has columns 'label' and 'labels', and one must be meant; rename one of them")
    columns = {"labels" if name == "label" else name: column for name, column in columns.items()}
    columns = typed_columns(dataclasses.replace(table, columns=columns))
    if "labels" not in columns:
        return Dataset(columns)
    labels = columns["labels"]
    if table.written:
        labels = [None if word in NO_WORDS else word for word in labels]
        labels = labels if None in labels else words_as_numbers(labels)
    labels, classes = read_labels(labels, table.where, "input_ids" in columns)
    return Dataset({**columns, "labels": labels}, classes)


def _written(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
