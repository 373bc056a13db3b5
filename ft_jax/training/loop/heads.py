"""Heads that grow while a run goes on: the state of what stays goes over to the larger one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import TrainState
from ft_jax.core.params import path_of
from ft_jax.core.state import transition
from ft_jax.core.weights import Weight, materialize
from ft_jax.outside import listed
from ft_jax.training.prepare import Plan
from ft_jax.training.stream import outputs_of

HEAD = "head"
"""Where a model's parameters have it."""


def grown(before: Plan, longer: Plan, state: TrainState) -> tuple[Plan, TrainState]:
    """The plan that goes on, counting what was compiled before, and the state in its shapes, see `transition`.

    Parameters, moments, memories and numbers of what was there stay; what the new outputs have is as a run begins with
    it: their weights drawn, their moments zero.

    Args:
      before: the plan so far.
      longer: the plan with the next task and the larger head.
      state: on the devices, of the plan so far; not to be used again.

    Raises:
      ValueError: a method keeps the head in a form of which the part so far is no part of the larger one.
    """
    fresh = longer.distributed.init(longer.model.params, longer.key)
    old = before.distributed.collect(state)
    new = transition(old, longer.distributed.collect(fresh))
    if not before.composition.inwards("lift"):
        _check_stays(_head(before, old), _head(longer, new))
    frozen = jax.tree.map(_on_devices, state.frozen, new.frozen, fresh.frozen)
    compiled, own = before.distributed.compilations(), longer.distributed.compilations
    distributed = dataclasses.replace(longer.distributed, compilations=lambda: compiled + own())
    on = distributed.spread(new.replace(frozen=None)).replace(frozen=frozen)
    return dataclasses.replace(longer, distributed=distributed), on


def _head(plan: Plan, state: TrainState) -> dict[str, np.ndarray]:
    """The head's weights as the model sees them, by path."""
    tree = {HEAD: plan.program.parameters(state)["model"].get(HEAD)}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda one: isinstance(one, Weight))
    return {path_of(path): np.asarray(materialize(leaf)) for path, leaf in leaves}


def _check_stays(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> None:
    for path, was in old.items():
        now = new[path][tuple(slice(size) for size in was.shape)]
        if now.shape != was.shape or not np.allclose(now, was, rtol=1e-4, atol=1e-5):
            raise ValueError(
                f"the head can't grow, for a method keeps {path} in a form of which a smaller one is no part, such as "
                "its singular directions; leave the head out of the method's targets"
            )


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
