"""Attention over another sequence, or over the own one with a cache: what encoder-decoders are made of."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.networks.parts.attention import Mask, attention
from ft_jax.models.networks.parts.layers import Projection, grafts_of, project


class CrossAttention(nnx.Module):
    """Queries of `x` over keys and values of a source, which may be `x` itself.

    Args:
      width: of the residual stream.
      heads: how many.
      head_width: of one head, by default ``width / heads``.
      biases: which of query, key, value and output have biases.
      scale: of the scores, by default ``1 / √head_width``.
      rate: dropout of the attention maps in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        head_width: int | None = None,
        biases: tuple[bool, bool, bool, bool] = (True, True, True, True),
        scale: float | None = None,
        rate: float = 0.0,
    ):
        self.heads = self.key_value_heads = heads
        self.head_width, self.scale, self.rate = head_width or width // heads, scale, rate
        inner = heads * self.head_width
        self.query = Projection(width, inner, bias=biases[0], rngs=rngs)
        self.key = Projection(width, inner, bias=biases[1], rngs=rngs)
        self.value = Projection(width, inner, bias=biases[2], rngs=rngs)
        self.output = Projection(inner, width, bias=biases[3], rngs=rngs)

    def __call__(self, x, source, mask: Mask, *, bias=None, key=None, maps=False):
        """``x [batch, time, width]`` to the same shape, and the attention maps or None.

        Args:
          x: what asks.
          source: ``[batch, source, width]``, what is asked.
          mask: over the source.
          bias: of the scores, or None.
          key: for dropout, or None.
          maps: whether the attention maps are wanted.
        """
        return self.attend(x, *self.sources(source), mask, bias=bias, key=key, maps=maps)

    def sources(self, source):
        """Keys and values ``[batch, source, heads, head_width]``, which decoding keeps."""
        keys, values = map(self._split, project(source, self.key, self.value))
        for graft in grafts_of(self):
            values = graft.source_values(self, values, source)
        return keys, values

    def attend(self, x, keys, values, mask: Mask, *, bias=None, key=None, maps=False, first=0):
        """As the module itself, over keys and values at hand; `first` is the place of the first query among them."""
        queries = self._split(self.query(x))
        for graft in grafts_of(self):
            mask = graft.mask(mask, queries.shape[1], keys.shape[1], first)
        for graft in grafts_of(self):
            more = graft.sources(self, keys, values)
            if more is not None:
                count = more[0].shape[1]
                mask = mask.grown(count, keys.shape[1], length=queries.shape[1])
                bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (count, 0)))
                keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(more, (keys, values), strict=True))
        attend = functools.partial(attention, scale=self.scale, bias=bias, rate=self.rate, key=key, maps=maps)
        for graft in grafts_of(self):
            attend = functools.partial(graft.attend, attend)
        mixed, probabilities = attend(queries, keys, values, mask)
        for graft in grafts_of(self):
            mixed = graft.mix(self, mixed, queries, x)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), probabilities

    def _split(self, x):
        return x.reshape(*x.shape[:2], -1, self.head_width)


def written(cache, keys, values, index):
    """A cache ``(keys, values)`` with new ones at `index`."""
    return tuple(
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
        for old, new in zip(cache, (keys, values), strict=True)
    )
