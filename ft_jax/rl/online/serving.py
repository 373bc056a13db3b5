"""A rollout for one update, or kept and given out in minibatches for several."""

from collections.abc import Callable
from typing import Any

import jax

from ft_jax.core.params import digest
from ft_jax.core.state import Context, TrainState
from ft_jax.rl.agents.collect import minibatch, orders

Memory = dict[str, Any]


def served(
    name: str,
    state: TrainState,
    context: Context,
    act: Callable[[Memory], tuple[dict[str, jax.Array], dict[str, jax.Array]]],
    epochs: int,
    minibatches: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after and the rows of an update.

    Args:
      name: of the method, whose memory has ``told`` and, where a rollout serves several updates, ``rows``.
      state, context: of the step.
      act: ``memory -> (this device's rows, numbers for the log)``, a rollout.
      epochs: how often a rollout is gone through.
      minibatches: that it is cut into.

    Raises:
      ValueError: prompts of another number or length than those that the memory was made for.
    """
    had: Memory = state.memory[name]
    if epochs * minibatches == 1:
        rows, told = act(had)
        return state.remember(name, {**had, "told": told}), rows

    def anew(had):
        rows, told = act(had)
        if context.axis is not None:
            rows = jax.tree.map(lambda x: jax.lax.all_gather(x, context.axis, tiled=True), rows)
        found, room = rows["input_ids"].shape, had["rows"]["input_ids"].shape
        if found != room:
            raise ValueError(
                f"{name} keeps rollouts of {room[0]} answers of {room[1]} tokens for several updates, but these "
                f"prompts give {found[0]} of {found[1]}; pad every batch of prompts alike"
            )
        return {**had, "rows": rows, "told": told}

    now = jax.lax.cond(state.step % (epochs * minibatches) == 0, anew, lambda had: had, had)
    key = jax.random.fold_in(state.key, digest(name))
    count = jax.tree.leaves(now["rows"])[0].shape[0]
    order = orders(key, state.step, 1, minibatches, count)
    return state.remember(name, now), minibatch(now["rows"], order, state.step, minibatches, context.axis)
