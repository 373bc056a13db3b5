"""Acting in many copies for some steps, and giving what happened out in minibatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ft_jax.rl.environments.environment import Copies, Environment, Transition, advance, keys_of


def collect(
    environment: Environment,
    decide: Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]],
    copies: Copies,
    key: jax.Array,
    steps: int,
    axis: str | None = None,
) -> tuple[Copies, Transition, Any]:
    """So many steps of every copy.

    Over a mapped device axis each device acts in its share of the copies, and all get all of it: a copy's random keys
    do not depend on where it runs.

    Args:
      environment: of the copies.
      decide: ``(observations, keys) -> (actions, more)``, ``more`` a tree of arrays ``[copies, ...]`` to keep.
      copies: where they are.
      key: for acting.
      steps: how many.
      axis: the mapped device axis, or None.

    Returns:
      The copies afterwards, the transitions and what `decide` gave more, ``[steps, copies, ...]``.
    """
    count = copies.total.shape[0]
    own, rows = copies, jnp.arange(count)
    if axis is not None:
        devices = jax.lax.psum(1, axis)
        share, at = count // devices, jax.lax.axis_index(axis)
        take = lambda x: jax.lax.dynamic_slice_in_dim(x, at * share, share)  # noqa: E731
        own, rows = jax.tree.map(take, (own, rows))

    def one(copies, time):
        keys = keys_of(jax.random.fold_in(key, time), rows)
        pairs = jax.vmap(jax.random.split)(keys)
        act, go = pairs[:, 0], pairs[:, 1]
        actions, more = decide(copies.observations, act)
        copies, told = advance(environment, copies, actions, go)
        return copies, (told, more)

    own, (told, more) = jax.lax.scan(one, own, jnp.arange(steps))
    if axis is not None:
        own = jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), own)
        told, more = jax.tree.map(lambda x: jax.lax.all_gather(x, axis, axis=1, tiled=True), (told, more))
    return own, told, more


def flat(tree):
    """``[steps, copies, ...]`` as rows ``[steps · copies, ...]``."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def orders(key: jax.Array, step: Int[Array, ""], epochs: int, minibatches: int, rows: int) -> Int[Array, "epochs rows"]:
    """The orders in which the next epochs go through rows.

    Args:
      key: of the run; an order depends on it and on the epoch.
      step: number of the update that comes next, the first of an epoch.
      epochs: how many.
      minibatches: updates of an epoch.
      rows: how many.
    """
    numbers = step // minibatches + jnp.arange(epochs)
    return jax.vmap(lambda number: jax.random.permutation(jax.random.fold_in(key, number), rows))(numbers)


def minibatch(
    rows: Any, orders: Int[Array, "epochs rows"], step: Int[Array, ""], minibatches: int, axis: str | None = None
):
    """The rows of an update: an epoch of `minibatches` updates goes through all of them in its order.

    Args:
      rows: arrays ``[rows, ...]``.
      orders: of epochs that follow one another, from `orders`.
      step: number of the update.
      minibatches: that an epoch is cut into.
      axis: the mapped device axis, whose devices share a minibatch.
    """
    epochs, count = orders.shape
    size = count // minibatches
    at = step // minibatches % epochs, step % minibatches * size
    own = jax.lax.dynamic_slice(orders, at, (1, size))[0]
    if axis is not None:
        share = size // jax.lax.psum(1, axis)
        own = jax.lax.dynamic_slice_in_dim(own, jax.lax.axis_index(axis) * share, share)
    return jax.tree.map(lambda x: x[own], rows)


def finished(told: Transition, before: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Mean reward and length of the episodes that ended, or what they were `before` where none did."""
    over = told.terminated | told.truncated
    count = jnp.sum(over)
    found = {"return": told.total, "length": told.length.astype(jnp.float32)}
    return {
        name: jnp.where(count > 0, jnp.sum(jnp.where(over, x, 0.0)) / jnp.maximum(count, 1), before[name])
        for name, x in found.items()
    }


def divides(name: str, copies: int, steps: int, minibatches: int, epochs: int) -> None:
    """Raises ValueError on numbers that are no whole minibatches."""
    for what, value in (("copies", copies), ("steps", steps), ("minibatches", minibatches), ("epochs", epochs)):
        if value < 1:
            raise ValueError(f"{name} has {what}={value}; give at least 1")
    if copies * steps % minibatches:
        raise ValueError(
            f"{name} collects {copies} copies × {steps} steps, which do not divide into {minibatches} minibatches; "
            "change one of them"
        )
