"""Bad input, found on the host and named in one sentence before any compute is spent."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.dataset import Computed, Dataset
from ft_jax.outside import listed, printable


def check_not_empty(dataset: Dataset, what: str = "the data set") -> Dataset:
    """The data set.

    Raises:
      ValueError: it has no examples.
    """
    if not len(dataset):
        raise ValueError(f"{what} has no examples; give it at least one, or loosen the filter or split that emptied it")
    return dataset


def check_columns(dataset: Dataset, names: Sequence[str], what: str = "the data set") -> Dataset:
    """The data set.

    Raises:
      KeyError: it lacks one of the columns.
    """
    for name in names:
        if name not in dataset.columns:
            raise KeyError(
                f"{what} has no column {printable(name)}; it has {listed(dataset.columns)}, so rename one of them "
                f"to {printable(name)}"
            )
    return dataset


def check_texts(dataset: Dataset, name: str) -> Sequence[str]:
    """The texts of a column.

    Raises:
      KeyError: there is no such column.
      ValueError: the set is empty, or a value is not a text.
    """
    check_columns(check_not_empty(dataset), [name])
    texts = dataset.columns[name]
    for place in range(len(texts)):
        if not isinstance(texts[place], str):
            raise ValueError(
                f"column {printable(name)} holds {printable(texts[place], 40)} at example {place}, which is not a "
                "text; drop that example or name another column"
            )
    return texts


def check_labels(dataset: Dataset, classes: int | None = None, name: str = "labels") -> Dataset:
    """The data set.

    Args:
      dataset: with class ids in column ``name``.
      classes: how many classes there are; by default as many as the data set names.
      name: the column.

    Raises:
      KeyError: there is no such column.
      ValueError: a label is no integer, or outside ``0 … classes - 1``; or the number of classes is unknown.

    Example:
      >>> check_labels(Dataset({"labels": np.array([0, 1, 7])}), classes=2)
      Traceback (most recent call last):
      ValueError: label 7 at example 2 is outside 0…1; correct it, or give the model 8 classes
    """
    classes = classes or len(dataset.classes)
    if not classes:
        raise ValueError("the data set names no classes; pass classes=, how many there are")
    labels = check_columns(dataset, [name]).columns[name]
    labels = (
        np.array([labels[place] for place in range(len(labels))])
        if isinstance(labels, Computed)
        else np.asarray(labels)
    )
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"column {printable(name)} has values of type {labels.dtype}; labels are whole numbers, see encode_labels"
        )
    wrong = np.argwhere((labels < 0) | (labels >= classes))
    if len(wrong):
        label = labels[tuple(wrong[0])]
        remedy = (
            f"correct it, or give the model {label + 1} classes" if label >= 0 else "correct it or drop the example"
        )
        raise ValueError(f"label {label} at example {wrong[0][0]} is outside 0…{classes - 1}; {remedy}")
    return dataset


def check_finite(dataset: Dataset) -> Dataset:
    """The data set; columns that are made when they are read are not looked at.

    Raises:
      ValueError: a column of floats holds NaN or an infinity.
    """
    for name, column in dataset.columns.items():
        if isinstance(column, np.ndarray) and column.dtype.kind == "f":
            wrong = np.argwhere(~np.isfinite(column))
            if len(wrong):
                value, place = column[tuple(wrong[0])], wrong[0][0]
                raise ValueError(
                    f"column {printable(name)} holds {value} at example {place}; clean or drop the example"
                )
    return dataset


def check_lengths(dataset: Dataset, positions: int, name: str = "input_ids") -> Dataset:
    """The data set.

    Args:
      dataset: with token sequences in column ``name``.
      positions: the longest sequence that the model takes.
      name: the column.

    Raises:
      KeyError: there is no such column.
      ValueError: a sequence is longer than the model takes.
    """
    sequences = check_columns(dataset, [name]).columns[name]
    for place in range(len(sequences)):
        if len(sequences[place]) > positions:
            raise ValueError(
                f"example {place} has {len(sequences[place])} tokens and the model takes {positions}; "
                f"tokenize with length={positions} and too_long='truncate', or drop it"
            )
    return dataset


def check_divides(batch_size: int, devices: int) -> int:
    """The examples that each device gets of a batch.

    Raises:
      ValueError: the batch doesn't divide over the devices, or has no example.

    Example:
      >>> check_divides(32, 8)
      4
    """
    if batch_size < 1:
        raise ValueError(f"a batch of {batch_size} examples is no batch; make batch_size at least 1")
    if batch_size % devices:
        low, high = batch_size // devices * devices, -(-batch_size // devices) * devices
        choices = f"{low} or {high}" if low else f"{high}"
        raise ValueError(f"a batch of {batch_size} does not divide over {devices} devices; make batch_size {choices}")
    return batch_size // devices


def check_batch(batch: Mapping[str, Any], fields: Sequence[str] = ()) -> Mapping[str, Any]:
    """The batch.

    Raises:
      KeyError: it lacks one of the fields.
      ValueError: a field of floats holds NaN or an infinity.
    """
    for field in fields:
        if field not in batch:
            raise KeyError(
                f"the batch has no field {printable(field)}; it has {listed(batch)}, so add it to the data set"
            )
    for field, value in batch.items():
        if isinstance(value, Mapping):
            check_batch(value)
        elif np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all():
            place = int(np.argwhere(~np.isfinite(np.asarray(value)))[0][0])
            raise ValueError(
                f"field {printable(field)} holds a value that is not finite at row {place}; clean or drop the example"
            )
    return batch
