"""What T5 and Whisper are made of: stacks of pre-norm layers, with or without attention over a memory."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx

from ft_jax.core.batches import named
from ft_jax.models.networks.parts.cross_attention import CrossAttention, written
from ft_jax.models.networks.parts.layers import dropout, grafts_of, subkey
from ft_jax.models.networks.parts.masks import Mask, mask_of
from ft_jax.models.networks.parts.scanned import held, in_order, run_layers


@dataclasses.dataclass(frozen=True)
class Pieces:
    """How the parts of a layer are made.

    Attributes:
      norm: makes a norm over the residual stream.
      attention: makes an attention over the own or another sequence.
      mlp: makes an MLP.
    """

    norm: Callable[[], nnx.Module]
    attention: Callable[[], CrossAttention]
    mlp: Callable[[], nnx.Module]


class Stack(nnx.Module):
    """Layers and a norm after the last.

    Args:
      config: with dropout, remat and collect.
      count: of layers.
      pieces: what they are made of.
      crossed: whether they attend over a memory too.
    """

    def __init__(self, config, count: int, pieces: Pieces, *, crossed: bool):
        self.config = config
        self.layers = held([Layer(config, pieces, crossed=crossed) for _ in range(count)], scan=config.scan)
        self.count = count
        self.norm = pieces.norm()

    def __call__(self, hidden, mask: Mask, *, bias=None, memory=None, seen: Mask | None = None, key=None, skip=0):
        """The normalised residual stream after the last layer and the states asked for.

        Args:
          hidden: ``[batch, time, width]``.
          mask: over the sequence itself.
          bias: of its attention's scores, or None.
          memory: ``[batch, source, width]``, what is attended to besides.
          seen: the mask over the memory.
          key: for dropout, or None.
          skip: how many of the first places are left out of the states.
        """
        config, shared = self.config, {"mask": mask, "bias": bias, "memory": memory, "seen": seen}
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: shared, skip)
        return dropout(self.norm(hidden), config.dropout, subkey(key, self.count)), states

    def empty_caches(self, memory, slots: int):
        """For each layer, room for the own keys and values, and the memory's, which stay as they are."""
        caches = {}
        for name, layer in in_order(self.layers):
            keys, values = layer.cross_attention.sources(memory)
            room = jnp.zeros((keys.shape[0], slots, *keys.shape[2:]), keys.dtype)
            caches[name] = {"own": (room, room), "memory": (keys, values)}
        return caches

    def step(self, hidden, index, caches, *, seen: Mask, bias=None):
        """Some new tokens after those of the caches, the first at slot `index`: the normalised stream, the caches."""
        slots = next(iter(caches.values()))["own"][0].shape[1]
        mask = Mask((jnp.arange(slots)[None] <= index + jnp.arange(hidden.shape[1])[:, None])[None, None])
        caches = dict(caches)
        for name, layer in in_order(self.layers):
            hidden, caches[name] = layer.step(hidden, mask, caches[name], index, seen=seen, bias=bias)
        return self.norm(hidden), caches


class Layer(nnx.Module):
    """``x ← x + attention(norm(x))``, the same over a memory where there is one, then ``x ← x + mlp(norm(x))``."""

    def __init__(self, config, pieces: Pieces, *, crossed: bool):
        self.config = config
        self.attention_norm, self.attention = pieces.norm(), pieces.attention()
        self.cross_norm = pieces.norm() if crossed else None
        self.cross_attention = pieces.attention() if crossed else None
        self.mlp_norm, self.mlp = pieces.norm(), pieces.mlp()

    def __call__(self, x, *, mask, bias, memory, seen, key):
        config, wanted = self.config, "attention" in self.config.collect
        normal = self.attention_norm(x)
        attended, maps = self.attention(normal, normal, mask, bias=bias, key=subkey(key, 0), maps=wanted)
        x, crossed = x + dropout(attended, config.dropout, subkey(key, 1)), None
        if self.cross_attention is not None:
            given, crossed = self.cross_attention(self.cross_norm(x), memory, seen, key=subkey(key, 2), maps=wanted)
            x = x + dropout(given, config.dropout, subkey(key, 3))
        return self._rest(x, key), {"attention": maps, "cross_attention": crossed}

    def step(self, x, mask, cache, index, *, seen, bias):
        """As the layer itself, for tokens from slot `index` of a cache."""
        normal = self.attention_norm(x)
        own = written(cache["own"], *self.attention.sources(normal), index)
        x = x + self.attention.attend(normal, *own, mask, bias=bias, first=index)[0]
        x = x + self.cross_attention.attend(self.cross_norm(x), *cache["memory"], seen)[0]
        return self._rest(x, None), {**cache, "own": own}

    def _rest(self, x, key):
        x = x + dropout(self.mlp(self.mlp_norm(x)), self.config.dropout, subkey(key, 4))
        for graft in grafts_of(self):
            x = graft.output(x)
        return x


def decoder_inputs(batch, start: int, pad: int):
    """The batch's ``decoder_input_ids``, or its ``labels`` a place later, `start` before the first of each segment.

    Raises:
      KeyError: where the batch has neither.

    Example:
      >>> decoder_inputs({"labels": jnp.array([[7, 8, -100]])}, start=1, pad=0).tolist()
      [[1, 7, 8]]
    """
    if "decoder_input_ids" in batch:
        return batch["decoder_input_ids"]
    if "labels" not in batch:
        raise KeyError(
            f"batch has no 'decoder_input_ids' (it has {named(batch)}); add them, or 'labels' "
            "[batch, time], which are the decoder's inputs a place later"
        )
    labels = batch["labels"]
    shifted = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=start)
    if "decoder_segment_ids" in batch:
        segments = batch["decoder_segment_ids"]
        first = segments != jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        shifted = jnp.where(first, start, shifted)
    return jnp.where(shifted < 0, pad, shifted)


def decoder_fields(batch) -> dict:
    """The decoder's masks and segments under the names that `mask_of` and `positions_of` read."""
    fields = {"attention_mask": "decoder_attention_mask", "segment_ids": "decoder_segment_ids"}
    return {name: batch[field] for name, field in fields.items() if field in batch}


def memory_mask(batch) -> Mask:
    """Who of the decoder sees whom of the encoder: real tokens, of the own segment where sequences are packed."""
    if "segment_ids" in batch and "decoder_segment_ids" in batch:
        own, other = batch["decoder_segment_ids"], batch["segment_ids"]
        return Mask(((own[:, :, None] == other[:, None, :]) & (other > 0)[:, None, :])[:, None])
    real = {name: batch[name] for name in ("attention_mask",) if name in batch}
    return mask_of(real, causal=False)


def grown(mask: Mask, count: int, keys: int, queries: int) -> Mask:
    """`mask` over `count` more keys before the others, which every query sees."""
    return mask.grown(count, keys, length=queries) if count else mask
