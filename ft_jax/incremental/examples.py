"""The plain examples inside a batch of any layout, for methods that remember them."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.method import MADE, Method, layout_of
from ft_jax.core.state import Batch

LAYOUTS = {"support": "episodes", "chosen": "preferences"}
"""The field by which a batch that is not of plain examples is known."""

STREAMS = ("unlabelled",)
"""Parts that are a stream of their own beside the examples, with a size of their own."""


def layout(batch: Batch) -> str:
    """The layout of a batch, in the words of `ft_jax.core.method.Method.reads`.

    Example:
      >>> layout({"input_ids": 0, "labels": 0}), layout({"chosen": {}, "rejected": {}})
      ('examples', 'preferences')
    """
    return next((name for field, name in LAYOUTS.items() if field in batch), "examples")


ROWLESS = (*MADE, "judgements")
"""Layouts from which a method makes a batch of its own, whose rows are not the data's."""


def no_rows(name: str, remembers: str | None = None) -> Callable[[tuple[Method, ...]], str | None]:
    """`Method.refuses` of a method that remembers the data's rows.

    Args:
      name: of the method.
      remembers: the layout of its example where it must be that of the whole composition's batch; None where it
        finds its examples inside.

    Example:
      >>> refuses = no_rows("incremental.gem", "examples")
      >>> refuses((Method("incremental.gem"), Method("rl.dpo", gives="preferences")))
      'incremental.gem remembers examples, but rl.dpo asks for preferences; build it with an example of preferences'
    """

    def refuses(parts):
        found, giver = layout_of(parts)
        if found in ROWLESS:
            return (
                f"{name} remembers rows of the data, but {giver} makes a batch of its own from {found}; "
                "leave one of them out"
            )
        if remembers is None or found == remembers:
            return None
        if found in LAYOUTS.values():
            return f"{name} remembers {remembers}, but {giver} asks for {found}; build it with an example of {found}"
        asks = f"{giver} asks for {found}" if giver else f"the composition takes {found}"
        return f"{name} remembers {remembers}, but {asks}, of which it could keep a part only; leave one of them out"

    return refuses


def no_answers(name: str) -> Callable[[tuple[Method, ...]], str | None]:
    """`Method.refuses` of a method that reads the model's answer to every row that it remembers.

    Example:
      >>> no_answers("incremental.der")((Method("incremental.der"), Method("meta.maml", gives="episodes")))
      'incremental.der reads the answer to every example, but meta.maml has those to the query alone; leave one out'
    """

    def refuses(parts):
        found, giver = layout_of(parts)
        if found == "episodes":
            return f"{name} reads the answer to every example, but {giver} has those to the query alone; leave one out"
        return no_rows(name)(parts)

    return refuses


def examples(batch: Batch, fields: Iterable[str], leading: int = 0) -> Batch | None:
    """The part of `batch` that has `fields`, as one batch of examples; None where no part has them.

    Of episodes it is support and query of all tasks together, of preferences the chosen answers: rejected
    ones are no examples of the task.

    Args:
      batch: of any layout; layouts may nest.
      fields: what to look for.
      leading: axes before those of the batch, such as 1 for a stack of batches. They stay.

    Example:
      >>> episodes = {"support": {"x": jnp.array([[0], [2]])}, "query": {"x": jnp.array([[1], [3]])}}
      >>> examples(episodes, ("x",))["x"].tolist()
      [0, 2, 1, 3]
    """
    fields = tuple(fields)
    if all(field in batch for field in fields):
        return batch
    if isinstance(batch.get("chosen"), Mapping):
        return examples(batch["chosen"], fields, leading)
    if not all(isinstance(batch.get(part), Mapping) for part in ("support", "query")):
        return None

    def flat(x):  # [..., tasks, examples, ...] to [..., tasks · examples, ...]
        return x.reshape(*x.shape[:leading], -1, *x.shape[leading + 2 :])

    found = [examples(jax.tree.map(flat, batch[part]), fields, leading) for part in ("support", "query")]
    return None if None in found else jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=leading), *found)
