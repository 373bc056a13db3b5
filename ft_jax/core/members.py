"""Many runs in one program: the lift that ensembles and populations share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.mesh import mapped
from ft_jax.core.program import Program
from ft_jax.core.state import TrainState, pytree


@pytree("owner")
class Shared:
    """What a lift remembers for all its members together, at ``state.memory[its name]``.

    Attributes:
      value: a pytree without an axis of members.
      owner: the lift's name.
    """

    value: Any
    owner: str


def member_axes(state: TrainState, owner: str | None = None) -> TrainState:
    """Where the axis of members is in a lifted state.

    The step's number and the frozen base exist once for all members, and what the lift `owner` shares.
    """
    memory = {name: None if _shared(value, owner) else 0 for name, value in state.memory.items()}
    return TrainState(step=None, params=0, frozen=None, opt_state=0, memory=memory, hyper=0, key=0)


def _shared(value, owner: str | None) -> bool:
    return isinstance(value, Shared) and owner in (None, value.owner)


def map_members(
    program: Program,
    count: int,
    keys: Callable[[jax.Array], jax.Array] | None = None,
    name: str | None = None,
    own_batches: bool = False,
) -> Program:
    """`program` run by `count` members at once, `jax.vmap` over all of it.

    Members share the number of the step, the frozen parameters and the batch; each has its own trainable parameters,
    optimizer state, memory, numbers and key. A method's ``prepare`` runs for each member, so it can give each its own
    weights or its own part of the batch by a number or a memory of its own.

    Args:
      program: what one member does.
      count: how many.
      keys: ``key -> [count] keys`` of the members; split from the run's key by default.
      name: of the lift, whose memory is one for all members, see `Shared`.
      own_batches: training batches have a leading axis of members too.

    Returns:
      A program whose state, metrics and predictions have a leading axis of `count`, and whose
      ``after_eval`` takes metrics with that axis.
    """
    split = keys or (lambda key: jax.random.split(key, count))

    def init(params, key):
        member_keys = split(key)
        members = jax.vmap(lambda key: program.init(params, key).replace(frozen=None))(member_keys)
        # Once more, on purpose: what is frozen is the first member's, and all share it.
        first = jax.random.clone(member_keys)[0]
        return members.replace(step=members.step[0], frozen=program.init(params, first).frozen)

    def over(function, argument=None, changes=True):
        """``(state, x) -> state`` or a pair of it and more, for every member."""

        def run(state, *arguments):
            axes = member_axes(state, name or "")
            out = axes if changes is True else (axes, 0) if changes else 0
            return mapped(function, count, in_axes=(axes, *(argument for _ in arguments)), out_axes=out)(
                state, *arguments
            )

        return run

    return Program(
        init=init,
        step=over(program.step, argument=0 if own_batches else None, changes="and more"),
        evaluate=over(program.evaluate, changes=False),
        after_task=program.after_task.map(over),
        after_eval=program.after_eval.map(lambda after: over(after, argument=0)),
        parameters=over(program.parameters, changes=False),
        trials=(count, *program.trials),
    )


def member(state: TrainState, index: int) -> TrainState:
    """One member's state, as its own run would have it; what a lift remembers for all of them stays as it is."""
    axes = member_axes(state)

    def take(axis, part):
        return part if axis is None else jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], part)

    memory = {name: take(axes.memory[name], value) for name, value in state.memory.items()}
    taken = {field: take(0, getattr(state, field)) for field in ("params", "opt_state", "hyper", "key")}
    return state.replace(memory=memory, **taken)
