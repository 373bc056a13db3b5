"""Heads that grow while a run goes on: the state of what stays goes over to the larger one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core import TrainState
from ft_jax.core.state import transition
from ft_jax.outside import listed
from ft_jax.training.prepare import Plan
from ft_jax.training.stream import outputs_of


def grown(before: Plan, longer: Plan, state: TrainState) -> tuple[Plan, TrainState]:
    """The plan that goes on, counting what was compiled before, and the state in its shapes, see `transition`.

    Parameters, moments, memories and numbers of what was there stay; what the new outputs have is as a run begins with
    it: their weights drawn, their moments zero.

    Args:
      before: the plan so far.
      longer: the plan with the next task and the larger head.
      state: on the devices, of the plan so far; not to be used again.
    """
    fresh = longer.distributed.init(longer.model.params, longer.key)
    new = transition(before.distributed.collect(state), longer.distributed.collect(fresh))
    frozen = jax.tree.map(_on_devices, state.frozen, new.frozen, fresh.frozen)
    compiled, own = before.distributed.compilations(), longer.distributed.compilations
    distributed = dataclasses.replace(longer.distributed, compilations=lambda: compiled + own())
    on = distributed.spread(new.replace(frozen=None)).replace(frozen=frozen)
    return dataclasses.replace(longer, distributed=distributed), on


def _on_devices(old, new, fresh):
    """A frozen leaf: the very one where its shape stays, else the grown one where the fresh one lies."""
    if old.shape == fresh.shape:
        return old
    return jax.device_put(jnp.broadcast_to(new, fresh.shape), fresh.sharding)


def told(before: Plan, longer: Plan) -> str:
    """What the log says of it."""
    was, now = outputs_of(before.stream), outputs_of(longer.stream)
    new = longer.classes[len(before.classes) :]
    named = f" for {listed(new)}" if new else ""
    return f"the head has {now} outputs, before it had {was}: {now - was} new{named}; the state of the others stays"


def grows(plan: Any) -> bool:
    """Whether the run's head grows with the classes of its stream."""
    return plan.stream[0].outputs is not None
