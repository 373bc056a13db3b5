"""The numbers of a run's state, and what changed in them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import TrainState
from ft_jax.training.checkpoint import leaf_table
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


def check_hyper_at(hyper_at: Mapping[int, Mapping[str, float]], state: TrainState, steps: int) -> None:
    """Refuses numbers that can't be changed at their step.

    Args:
      hyper_at: as an experiment has it.
      state: or its shapes.
      steps: of the whole run.

    Raises:
      ValueError: a step that the run doesn't have, or a value that is not finite.
      KeyError: a number that the state doesn't have, with the nearest ones.
    """
    for step, changes in hyper_at.items():
        if type(step) is not int or not 0 <= step < steps:
            raise ValueError(
                f"hyper_at has step {step!r} and the run has {steps} steps; give a whole number from 0 to {steps - 1}"
            )
        for number, value in changes.items():
            if isinstance(value, bool | str) or not math.isfinite(value):
                raise ValueError(f"hyper_at[{step}] sets {number} to {value!r}; give a finite number")
        jax.eval_shape(lambda one, changes=changes: one.with_hyper(changes), state)


def in_place(old: Any, new: Any) -> Any:
    """`new`, arrays or numbers, in the types and on the devices of `old`, so that nothing compiles again."""

    def one(before, after):
        if before is after:
            return before
        if jnp.issubdtype(before.dtype, jax.dtypes.prng_key):
            bits = one(jax.random.key_data(before), jax.random.key_data(after))
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(before))
        host = np.broadcast_to(np.asarray(jax.device_get(after), before.dtype), before.shape)
        if len(before.sharding.device_set) == 1 and not getattr(before, "committed", False):
            return jnp.asarray(host)
        return jax.make_array_from_callback(host.shape, before.sharding, lambda index: host[index])

    return jax.tree.map(one, old, new)


def check_returned(state: TrainState, given: Any, name: str) -> None:
    """Refuses what a callback returned where training can't go on with it.

    Raises:
      ValueError: it is no state, or one of other leaves, shapes, types or frozen parameters.
    """
    if not isinstance(given, TrainState):
        raise ValueError(f"callback {name} returned a {type(given).__name__}; return a state, or nothing")
    if given.frozen is not state.frozen:
        raise ValueError(
            f"callback {name} returned other frozen parameters, which no checkpoint holds; change the trainable ones"
        )
    if not jnp.array_equal(given.step, state.step):
        raise ValueError(f"callback {name} returned a state of another step; leave state.step alone")
    old, new = (leaf_table(one.replace(frozen=None)) for one in (state, given))
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            raise ValueError(
                f"callback {name} returned a state whose {path} is {new.get(path, 'missing')} and not "
                f"{old.get(path, 'there')}; keep every leaf's shape and type"
            )


def _told(value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_told, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
