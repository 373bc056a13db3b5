"""The plain examples inside a batch of any layout, for methods that remember them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.state import Batch

LAYOUTS = {"support": "episodes", "chosen": "preferences"}
"""The field by which a batch that is not of plain examples is known."""

PARTS = ("support", "query", "chosen")
"""The parts of such batches that hold examples of the task. Rejected answers are not examples of it."""


STREAMS = ("unlabelled",)
"""Parts that are a stream of their own beside the examples, with a size of their own."""


def layout(batch: Batch) -> str:
    """The layout of a batch, in the words of `ft_jax.core.method.Method.reads`."""
    return next((LAYOUTS[field] for field in LAYOUTS if field in batch), "examples")


def examples(batch: Batch, like: Batch, name: str, leading: int = 0) -> Batch:
    """The examples in `batch` that have the fields of `like`, one leading axis of examples.

    Where a method outside makes the batch episodes or preferences, the examples of all parts are taken:
    support and query, and the chosen answers.

    Args:
      batch: a batch of any layout.
      like: a batch of the wanted layout; names and shapes of one example matter.
      name: who asks, for the error.
      leading: axes before the examples', such as 1 for a stack of batches. They are kept.

    Raises:
      KeyError: where `batch` has no such field.
    """
    found = _find(batch, like)
    if not found:
        missing = next((field for field in like if field not in batch), None)
        raise KeyError(
            f"{name} remembers field {missing!r}, but the batch has {', '.join(batch)}; build it with a batch like "
            "those that it is trained on"
        )
    pieces = [jax.tree.map(lambda x, one: _flat(x, one, leading), part, like) for part in found]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=leading), *pieces)


def _find(batch, like):
    if all(field in batch for field in like):
        return [_restrict(batch, like)]
    inside = [batch[part] for part in PARTS if isinstance(batch.get(part), Mapping)]
    return [found for part in inside for found in _find(part, like)]


def _restrict(batch, like):
    return {
        field: _restrict(batch[field], one) if isinstance(one, Mapping) else batch[field] for field, one in like.items()
    }


def _flat(x, one, leading: int):
    return x.reshape(*x.shape[:leading], -1, *one.shape[1:])
