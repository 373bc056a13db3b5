"""Sums over single examples of what their gradients say, and penalties that hold weights by it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.mesh import mapped
from ft_jax.core.state import Batch

TOGETHER = 8
"""Examples whose gradients are held at once."""


def summed_over_examples(gradient: Callable[[Batch, jax.Array], Any], batches: Batch, like: Any) -> Any:
    """``Σ gradient(example, its number)`` over all examples, a few at a time.

    Args:
      gradient: ``(batch of one example, its number) -> tree``, such as of squared gradients.
      batches: fields ``[count, batch, ...]``.
      like: the tree's shapes.

    Returns:
      A tree like `like`, float32.
    """
    first = jax.tree.leaves(batches)[0]
    together = math.gcd(first.shape[1], TOGETHER)
    pieces = jax.tree.map(lambda x: x.reshape(-1, together, 1, *x.shape[2:]), dict(batches))
    numbers = jnp.arange(first.shape[0] * first.shape[1]).reshape(-1, together)

    def body(sums, piece):
        found = mapped(gradient, together)(*piece)
        return jax.tree.map(lambda total, g: total + jnp.sum(g.astype(jnp.float32), axis=0), sums, found), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
    return jax.lax.scan(body, zeros, (pieces, numbers))[0]


def how_many(batches: Batch) -> jax.Array:
    """How many examples of stacked batches count, at least 1.

    Example:
      >>> int(how_many({"labels": jnp.array([[0, 1], [2, -1]]), "weights": jnp.array([[1.0, 0.0], [1.0, 1.0]])}))
      2
    """
    labels = batches["labels"]
    weights = batches.get("weights", jnp.ones(labels.shape))
    if jnp.issubdtype(labels.dtype, jnp.integer) and weights.shape == labels.shape:
        weights = jnp.where(labels >= 0, weights, 0.0)
    rows = labels.shape[0] * labels.shape[1]
    return jnp.maximum(jnp.sum(jnp.any(weights.reshape(rows, -1) != 0, axis=1)), 1)


def held(importance: Any, params: Any, anchor: Any) -> jax.Array:
    """``Σ importance (params - anchor)²`` over all leaves, float32."""

    def pull(i, p, a):
        return jnp.sum(i * jnp.square(p.astype(jnp.float32) - a.astype(jnp.float32)))

    return sum(jax.tree.leaves(jax.tree.map(pull, importance, params, anchor)), start=jnp.float32(0))
