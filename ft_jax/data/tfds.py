"""Data sets of tensorflow-datasets, read without TensorFlow."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.data.dataset import Computed, Dataset
from ft_jax.outside import printable

NAMES = {"image": "images", "label": "labels"}
"""Features of TFDS that get the names which batches have."""


def from_tfds(address: str, split: str | None = None, data_dir: str | Path | None = None) -> Dataset:
    """A data set of tensorflow-datasets, through ``tfds.data_source`` over array_record files.

    Examples are read when they are asked for; nothing but an index is held in memory. A set that isn't prepared yet
    is downloaded and prepared by TFDS.

    Args:
      address: ``tfds:name``, ``tfds:name/config``, ``tfds:name:version``, each with ``:split`` after it if you like.
      split: in place of the one in the address; TFDS's slices such as ``train[:90%]`` work too.
      data_dir: where prepared sets are; by default ``$TFDS_DATA_DIR``, else TFDS's own.

    Returns:
      The features as columns, ``image`` as ``images`` and ``label`` as ``labels``; texts are ``str``.

    Raises:
      ValueError: neither address nor ``split`` names a split, or the set has none of that name, or it has no named
        features.
      FileNotFoundError: it isn't prepared here and can't be.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"{printable(address)} needs tensorflow-datasets, which is not installed; pip install 'ft_jax[tfds]'"
        ) from error
    name, named = parse_tfds(address)
    split = split or named
    directory = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    try:
        builder = tensorflow_datasets.builder(name, data_dir=directory, file_format="array_record")
        if not builder.info.splits:
            builder.download_and_prepare()
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise FileNotFoundError(
            f"needs the TFDS data set {printable(name)}, which is not prepared here and could not be "
            f"({type(error).__name__}: {reason}); prepare it with network, or set TFDS_DATA_DIR to a folder that has "
            "it as array_record"
        ) from error
    have = ", ".join(builder.info.splits)
    if split is None:
        raise ValueError(
            f"{printable(address)} names no split; take one of {have}, as in 'tfds:{name}:{have.partition(',')[0]}'"
        )
    try:
        source = builder.as_data_source(split=split)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the TFDS data set {printable(name)} has no split {printable(split)}; take one of {have}"
        ) from error
    features = builder.info.features
    if not isinstance(features, tensorflow_datasets.features.FeaturesDict):
        raise ValueError(
            f"the TFDS data set {printable(name)} has examples without named features; convert it to a file first"
        )
    labels = features["label"] if "label" in set(features) else None
    classes = tuple(labels.names) if isinstance(labels, tensorflow_datasets.features.ClassLabel) else ()
    read = _one_at_a_time(source)
    columns = {NAMES.get(feature, feature): _column(len(source), read, feature) for feature in features}
    return Dataset(columns, classes)


def parse_tfds(address: str) -> tuple[str, str | None]:
    """Name (with config and version) and split of a ``tfds:`` address.

    Example:
      >>> parse_tfds("tfds:mnist:3.0.1:train[:90%]")
      ('mnist:3.0.1', 'train[:90%]')
      >>> parse_tfds("tfds:glue/sst2")
      ('glue/sst2', None)
    """
    name, _, rest = address.removeprefix("tfds:").partition(":")
    if rest[:1].isdigit():
        version, _, split = rest.partition(":")
        return f"{name}:{version}", split or None
    return name, rest or None


def _one_at_a_time(source: Any) -> Callable[[int], Mapping]:
    """Reads records, keeping each thread's last one: the columns of an example are asked for one after the other."""
    last = threading.local()

    def read(index: int) -> Mapping:
        if getattr(last, "index", None) != index:
            last.index, last.record = index, source[index]
        return last.record

    return read


def _column(length: int, read: Callable[[int], Mapping], feature: str) -> Computed:
    return Computed(length, lambda index: _plain(read(index)[feature]))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(item) for item in value]
    return value
