"""A file of one's own in two: what is learned, and what is measured."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.data.dataset import Dataset, digest_fraction


def check_address(spec: Any, example: str) -> None:
    """Raises ValueError where a spec names no data set."""
    if not spec.address:
        raise ValueError(f"data.address names no data; give it, such as --data.address {example}")
    if not 0.0 <= spec.held_out < 1.0:
        raise ValueError(f"data.held_out is {spec.held_out}; give a share from 0 to below 1")


def train_and_evaluation(
    address: str, evaluation: str | None, held_out: float, load: Callable[[str], Dataset] = data.load
) -> tuple[Dataset, Dataset | None]:
    """Examples to train on and those to measure on.

    The second are another data set's, or a share of the first's, chosen by a digest of what an example says: equal
    examples stay together, and the same file is cut the same way everywhere.

    Args:
      address: of the data.
      evaluation: of the other data set, or None.
      held_out: the share; 0 for no evaluation.
      load: from an address to a data set.

    Raises:
      ValueError: too few examples to hold any back.
    """
    whole = load(address)
    if evaluation is not None:
        return whole, load(evaluation)
    if held_out == 0.0:
        return whole, None
    away = held_back(contents(whole), held_out, address)
    return whole.take(np.flatnonzero(~away)), whole.take(np.flatnonzero(away))


def held_back(keys: Sequence[str], share: float, address: str) -> np.ndarray:
    """Which examples are measured on, ``bool [examples]``, by a digest of what each says.

    Args:
      keys: of the examples; equal ones stay together.
      share: of all; 0 for none.
      address: of the data, for the message.

    Raises:
      ValueError: too few examples to hold any back.

    Example:
      >>> held_back(["a", "b", "c", "a"], 0.3, "four.csv").tolist()
      [False, True, True, False]
    """
    places = np.array([digest_fraction(key) for key in keys])
    away = places < share
    if share and (away.all() or not away.any()):
        # A handful of examples, none of which fell on one of the sides: the lowest one is held back.
        away = places <= places.min()
    if away.all():
        raise ValueError(
            f"{address} has {len(keys)} examples that say the same, so none can be held back; give "
            "data.evaluation another file, or data.held_out 0"
        )
    return away


def contents(examples: Dataset) -> list[str]:
    """What every example says, as text."""
    return [json.dumps(example, sort_keys=True, default=_plain) for example in examples]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
