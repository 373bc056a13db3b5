"""Who may look at whom, and where each token stands in its own sequence."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Mask:
    """Who may look at whom.

    Attributes:
      allowed: ``[batch, 1, queries or 1, keys]``, True where a query may attend; None for everywhere.
      causal: whether, besides, a query sees only keys at its own index or before.
      window: ``(before, after)``: besides, a query sees only keys at most so far from its own index.
      kept: how many of the first keys the window leaves in sight.
    """

    allowed: Bool[Array, "batch 1 queries keys"] | None = None
    causal: bool = False
    window: tuple[int, int] | None = None
    kept: int = 0

    def explicit(self, queries: int, keys: int) -> "Mask":
        """The same mask as one array, or None, with no flags."""
        distance = jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]
        allowed = self.allowed
        for ruled in (
            distance >= 0 if self.causal else None,
            self.near(distance) | (jnp.arange(keys) < self.kept) if self.window else None,
        ):
            if ruled is not None:
                allowed = ruled[None, None] if allowed is None else allowed & ruled
        return Mask(allowed)

    def near(self, distance: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether a key so far before a query is in its window."""
        return (distance <= self.window[0]) & (-distance <= self.window[1])

    def slid(self, count: int, window: tuple[int, int], first: Array | int) -> "Mask":
        """The explicit mask whose `count` first keys stand before the sequence and slide out of its window.

        Args:
          count: of such keys.
          window: see the attribute.
          first: the index of the first query in the sequence, a scalar or ``[batch]``.
        """
        own = jnp.reshape(jnp.asarray(first), (-1, 1)) + jnp.arange(self.allowed.shape[2])
        near = (count + own[:, :, None] - jnp.arange(count) <= window[0])[:, None]
        rest = jnp.broadcast_to(True, (*near.shape[:-1], self.allowed.shape[3] - count))
        return Mask(self.allowed & jnp.concatenate([near, rest], axis=-1))

    def grown(self, count: int, keys: int, *, queries: bool = False, length: int | None = None) -> "Mask":
        """The mask of as many keys with `count` more before them, which every query sees.

        Args:
          count: new keys.
          keys: how many there were.
          queries: whether there are as many new queries too, which see each other and, unless causal, all that
            any query sees.
          length: how many queries there are, by default as many as keys.
        """
        old = self.explicit(length or keys, keys).allowed
        if old is None:
            return self
        grown = jnp.pad(old, ((0, 0), (0, 0), (0, 0), (count, 0)), constant_values=True)
        if queries:
            seen = jnp.zeros_like(old[:, :, :1]) if self.causal else jnp.any(old, axis=2, keepdims=True)
            own = jnp.pad(seen, ((0, 0), (0, 0), (0, 0), (count, 0)), constant_values=True)
            own = jnp.broadcast_to(own, (*own.shape[:2], count, own.shape[3]))
            if self.causal:
                own = own & (jnp.arange(count)[:, None] >= jnp.arange(own.shape[3])[None, :])
            grown = jnp.concatenate(
                [own, jnp.broadcast_to(grown, (*grown.shape[:2], length or keys, grown.shape[3]))], axis=2
            )
        return Mask(grown)


def mask_of(batch, *, causal: bool) -> Mask:
    """The mask of a batch with ``attention_mask`` (1 = real token), ``segment_ids`` (0 = padding), both or none.

    Tokens of different segments don't see each other, so packed sequences are as if alone. A causal mask
    alone stays a flag, which fused kernels exploit. Under a causal mask, the tokens of a ``prefix`` (1 = of it) see
    each other all the same (Raffel et al. 2019, arXiv:1910.10683, section 3.2.1).
    """
    padding, segments = batch.get("attention_mask"), batch.get("segment_ids")
    allowed = None
    if padding is not None:
        allowed = (padding > 0)[:, None, None, :]
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        allowed = same[:, None] if allowed is None else allowed & same[:, None]
    if causal and "prefix" in batch:
        first, time = batch["prefix"] > 0, jnp.arange(batch["prefix"].shape[1])
        seen = (time[:, None] >= time[None, :]) | (first[:, :, None] & first[:, None, :])
        return Mask(seen[:, None] if allowed is None else allowed & seen[:, None])
    return Mask(allowed, causal)


def positions_of(batch) -> Int[Array, "batch time"]:
    """Each token's place in its own sequence, from 0.

    ``positions`` of the batch where given; else counted from the start of the segment (packing), or from the
    first real token (left padding).
    """
    if "positions" in batch:
        return batch["positions"]
    ids = batch["input_ids"]
    index = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    if "segment_ids" in batch:
        segments = batch["segment_ids"]
        starts = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
        return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    if "attention_mask" in batch:
        return jnp.maximum(jnp.cumsum(batch["attention_mask"] > 0, axis=1, dtype=jnp.int32) - 1, 0)
    return index
