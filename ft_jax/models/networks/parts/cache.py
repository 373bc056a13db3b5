"""A layer's cache of keys and values: every slot, or a ring of the last ones where a window sees no more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.models.networks.parts.masks import Mask

Cache = tuple[Float[Array, "batch held heads head_width"], Float[Array, "batch held heads head_width"]]
"""Keys and values. One that holds fewer than all slots is a ring: slot ``s`` lies at place ``s mod held``."""


def empty(batch: int, held: int, heads: int, head_width: int, dtype) -> Cache:
    """A cache with nothing in it."""
    zeros = jnp.zeros((batch, held, heads, head_width), dtype)
    return zeros, zeros


def extend(cache: Cache, keys, values, mask: Mask, index, slots: int) -> tuple[Array, Array, Mask, Cache]:
    """Some new tokens' keys and values after the cached ones.

    Args:
      cache: of earlier tokens.
      keys, values: of the new ones, ``[batch, new, heads, head_width]``.
      mask: over all slots.
      index: the slot of the first new token, a scalar or ``[batch]``; the Python integer 0 says that nothing is
        cached yet.
      slots: how many there are.

    Returns:
      The keys and values to attend to, the mask over them, and the cache with the new tokens in it.
    """
    held, new = cache[0].shape[1], keys.shape[1]
    ring = held < slots
    own = jnp.reshape(jnp.asarray(index), (-1, 1)) + jnp.arange(new)
    first = isinstance(index, int) and index == 0
    if first or (ring and new > 1):
        # The ring may lose slots that the first of several new tokens still sees, so it is read before it is written.
        sources, seen = own, (keys, values)
        if not first:
            sources = jnp.concatenate([ring_slots(own[:, :1] - 1, held), own], axis=1)
            seen = tuple(jnp.concatenate(pair, axis=1) for pair in zip(cache, (keys, values), strict=True))
        cache = _written(cache, (keys, values), own, ring)
    else:
        cache = seen = _written(cache, (keys, values), own, ring)
        sources = jnp.arange(slots)[None] if not ring else ring_slots(own[:, -1:], held)
    return *seen, _seen(mask, own, sources), cache


def ring_slots(last: Int[Array, "rows 1"], held: int) -> Int[Array, "rows held"]:
    """The slot at each place of a ring whose newest slot is `last`; negative where nothing was written yet.

    Example:
      >>> ring_slots(jnp.array([[5]]), 4).tolist()
      [[4, 5, 2, 3]]
    """
    return last - (last - jnp.arange(held)) % held


def _seen(mask, own, sources):
    """The mask over the slots `sources`."""
    there = (sources >= 0)[:, None, None, :]
    distance = own[:, None, :, None] - sources[:, None, None, :]
    allowed = jnp.broadcast_to(there, distance.shape)
    if mask.allowed is not None:
        places = jnp.clip(sources, 0, mask.allowed.shape[-1] - 1)[:, None, None, :]
        allowed = allowed & jnp.take_along_axis(mask.allowed, places, axis=-1)
    if mask.causal:
        allowed = allowed & (distance >= 0)
    if mask.window is not None:
        allowed = allowed & (mask.near(distance) | (sources < mask.kept)[:, None, None, :])
    return Mask(allowed)


def _written(cache, new, own, ring):
    """The cache with the new tokens at their slots' places; of more than fit, the last."""
    held, rows = cache[0].shape[1], own.shape[0]
    own = own[:, -held:]
    places = own % held

    def write(old, values):
        values = values[:, -held:].astype(old.dtype)
        if rows > 1:
            return old.at[jnp.arange(rows)[:, None], places].set(values)
        if not ring or values.shape[1] == 1:
            return jax.lax.dynamic_update_slice_in_dim(old, values, places[0, 0], axis=1)
        return old.at[:, places[0]].set(values)

    return tuple(write(old, values) for old, values in zip(cache, new, strict=True))
