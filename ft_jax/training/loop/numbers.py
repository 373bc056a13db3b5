"""The numbers of a run's state, and what changed in them."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ft_jax.training.run_folder import finite

Numbers = Mapping[str, np.ndarray]
"""By ``"method.number"``; of several trials a value each."""


def numbers_of(hyper: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers of a state's ``hyper`` on the host.

    Example:
      >>> numbers_of({"optimizer": {"learning_rate": np.float32(0.5)}})
      {'optimizer.learning_rate': array(0.5, dtype=float32)}
    """
    return {
        f"{name}.{number}": np.asarray(value)
        for name, its in jax.device_get(hyper).items()
        for number, value in its.items()
    }


def changes(before: Numbers, after: Numbers) -> Iterator[tuple[str, dict[str, Any]]]:
    """A sentence for each number that is not what it was, and its fields for the log.

    Example:
      >>> next(changes({"a.b": np.array(1.0)}, {"a.b": np.array(0.5)}))
      ('a.b 1 → 0.5', {'number': 'a.b', 'old': 1.0, 'new': 0.5})
    """
    for number, value in after.items():
        if not np.array_equal(before[number], value, equal_nan=True):
            old, new = finite(before[number]), finite(value)
            yield f"{number} {_told(old)} → {_told(new)}", {"number": number, "old": old, "new": new}


def _told(value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_told, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
