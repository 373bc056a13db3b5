"""Tensors that a checkpoint holds twice where a configuration ties them, and what they are if they differ."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.models.architectures.naming import Architecture
from ft_jax.models.checkpoints.stored import Stored
from ft_jax.outside import printable

ROWS = 4096
"""How many rows of two tables are compared at a time."""


def own_copies(
    folder: Path, architecture: Architecture, config: Any, tensors: Mapping[str, Stored], strict: bool
) -> tuple[Any, dict[str, Stored]]:
    """The configuration and tensors of a checkpoint whose tied tensors are what they claim to be.

    As transformers does: a copy that is equal to its source is passed over, a source that is missing is its copy, and
    an unembedding that differs from the token table stays a table of its own, whatever the configuration says.

    Args:
      folder: for messages.
      architecture: knows which tensors are copies of which parameters.
      config: as config.json says.
      tensors: of the folder.
      strict: refuse copies that differ where the network has one parameter for both.

    Raises:
      ValueError: where there is such a copy.
    """
    tensors, table, prefix = dict(tensors), architecture.tensors(config), architecture.prefix
    used = {name for tensor in table.values() for name in (tensor.name, prefix + tensor.name)}
    for ending, path in architecture.copies.items():
        copy = next((name for name in tensors if name.endswith(ending) and name not in used), None)
        if copy is None or path not in table:
            continue
        name = table[path].name
        source = next((one for one in (prefix + name, name) if one in tensors), None)
        if source is None:
            tensors[name] = tensors.pop(copy)
        elif not _equal(tensors[copy], tensors[source]):
            untied = _untied(config) if path.endswith("embeddings/tokens") else None
            if untied is None and strict:
                raise ValueError(
                    f"{folder} holds {printable(copy)}, which differs from {printable(source)}, and this network has "
                    "one parameter for both; pass strict=False to take the latter alone"
                )
            taken = "both are kept, untied" if untied is not None else f"{source!r} is taken for both"
            warnings.warn(
                f"{folder}: config.json ties {copy!r} to {source!r}, and they differ in the file; {taken}", stacklevel=4
            )
            config = config if untied is None else untied
    return config, tensors


def _untied(config):
    """The configuration with an unembedding of its own; None where the network has none."""
    if hasattr(config, "tied"):
        return dataclasses.replace(config, tied=False)
    if hasattr(config, "language"):
        return dataclasses.replace(config, language=_untied(config.language))
    return None


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape:
        return False
    count = one.shape[0] if one.shape else 0
    steps = range(0, count, ROWS)
    return all(
        np.array_equal(one.rows(at, min(at + ROWS, count)), other.rows(at, min(at + ROWS, count))) for at in steps
    )
