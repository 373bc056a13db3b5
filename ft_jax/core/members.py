"""Many runs in one program: the lift that ensembles and populations share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.mesh import mapped
from ft_jax.core.method import Program
from ft_jax.core.state import TrainState

MEMBER_AXES = TrainState(step=0, params=0, frozen=None, opt_state=0, memory=0, hyper=0, key=0)
"""Everything has a leading member axis but the frozen base, which exists once."""


def map_members(program: Program, count: int, keys: Callable[[jax.Array], jax.Array] | None = None) -> Program:
    """`program` run by `count` members at once, `jax.vmap` over all of it.

    Members share the frozen parameters and the batch; each has its own trainable parameters, optimizer
    state, memory, numbers and key.

    Args:
      program: what one member does.
      count: how many.
      keys: ``key -> [count] keys`` of the members; split from the run's key by default.

    Returns:
      A program whose state, metrics and predictions have a leading axis of `count`, and whose
      ``after_eval`` takes metrics with that axis.
    """
    split = keys or (lambda key: jax.random.split(key, count))

    def init(params, key):
        member_keys = split(key)
        members = jax.vmap(lambda key: program.init(params, key).replace(frozen=None))(member_keys)
        return members.replace(frozen=program.init(params, member_keys[0]).frozen)

    return Program(
        init=init,
        step=mapped(program.step, count, in_axes=(MEMBER_AXES, None), out_axes=(MEMBER_AXES, 0)),
        evaluate=mapped(program.evaluate, count, in_axes=(MEMBER_AXES, None)),
        after_task=jax.vmap(program.after_task, in_axes=(MEMBER_AXES, None), out_axes=MEMBER_AXES),
        after_eval=jax.vmap(program.after_eval, in_axes=(MEMBER_AXES, 0), out_axes=MEMBER_AXES),
        trials=(count, *program.trials),
    )


def member(state: TrainState, index: int) -> TrainState:
    """One member's state, as its own run would have it."""
    taken = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], state.replace(frozen=None))
    return taken.replace(frozen=state.frozen)
