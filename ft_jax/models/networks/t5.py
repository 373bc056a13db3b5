"""T5: an encoder-decoder with relative position biases."""

import dataclasses
import functools
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from ft_jax.core.weights import embed
from ft_jax.models.networks.encoder import MLP
from ft_jax.models.networks.encoder_decoder import (
    Pieces,
    Stack,
    decoder_fields,
    decoder_inputs,
    grown,
    memory_mask,
)
from ft_jax.models.networks.modern_encoder import GatedMLP
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.cross_attention import CrossAttention
from ft_jax.models.networks.parts.layers import Projection, RMSNorm, dropout, subkey, table, value, with_virtual
from ft_jax.models.networks.parts.masks import Mask, mask_of


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of a T5.

    Attributes:
      vocabulary: tokens in the table that both sides share.
      width: of the residual streams.
      layers: of both sides together.
      decoder_layers: of the decoder alone.
      heads: attention heads.
      head_width: of one head; together they need not be `width`.
      mlp_width: of the hidden layer of each MLP.
      buckets: of relative distances, each with a bias for each head.
      distance: from which on distances share the last bucket.
      gated: whether the MLPs are gated (T5 1.1, Flan-T5).
      activation: of the MLPs.
      tied: whether the unembedding is the token table.
      scaled: whether the decoder's output is divided by ``√width`` before the unembedding (the first T5).
      start: the token before the decoder's first.
      pad: the token that fills up.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own. Norms and softmax are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      scan: whether the layers' parameters are stacked and run in one scan, which compiles once for all layers.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    vocabulary: int
    width: int
    layers: int
    decoder_layers: int
    heads: int
    head_width: int
    mlp_width: int
    buckets: int = 32
    distance: int = 128
    gated: bool = False
    activation: str = "relu"
    tied: bool = True
    scaled: bool = True
    start: int | None = 0
    pad: int | None = 0
    epsilon: float = 1e-6
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=())
        if not self.decoder_layers < self.layers:
            raise ValueError(
                f"T5Config.decoder_layers is {self.decoder_layers} of {self.layers} layers; the encoder needs some too"
            )


class T5(nnx.Module):
    """Raffel et al. 2019, "Exploring the Limits of Transfer Learning", arXiv:1910.10683, section 2.1."""

    mask_field = "decoder_attention_mask"

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = SharedTable(config, rngs)
        self.encoder = Side(config, config.layers - config.decoder_layers, rngs, crossed=False)
        self.decoder = Side(config, config.decoder_layers, rngs, crossed=True)
        self.head = None if config.tied else Projection(config.width, config.vocabulary, bias=False, rngs=rngs)

    def __call__(self, batch, key=None):
        """``input_ids`` and ``decoder_input_ids`` (or ``labels`` to shift) and, where given, masks and segments.

        The decoder's masks and segments are ``decoder_attention_mask`` and ``decoder_segment_ids``.

        Returns:
          The decoder's hidden states ``[batch, time, width]``; the encoder's as the state ``"encoder"``, and the
          states asked for by ``config.collect``, named ``"encoder/…"`` and ``"decoder/…"``.
        """
        config = self.config
        memory, states, count = self.encode(batch, subkey(key, 0))
        ids, rate = decoder_inputs(batch, config.start, config.pad), config.dropout
        own = decoder_fields(batch)
        seen = grown(memory_mask(batch), count, memory.shape[1] - count, ids.shape[1])
        hidden = dropout(self.embeddings(ids), rate, subkey(key, 2))
        bias = self.decoder.bias(jnp.arange(ids.shape[1]), ids.shape[1])
        hidden, found = self.decoder.stack(
            hidden, mask_of(own, causal=True), bias=bias, memory=memory, seen=seen, key=subkey(key, 1)
        )
        states |= {f"decoder/{name}": state for name, state in found.items()}
        return self._scaled(hidden), {"encoder": memory[:, count:], **states}

    def encode(self, batch, key=None):
        """The memory ``[batch, virtual tokens + time, width]``, the encoder's states, and how many are virtual."""
        embedded, mask = self.embeddings(batch["input_ids"]), mask_of(batch, causal=False)
        places = jnp.broadcast_to(jnp.arange(embedded.shape[1]), embedded.shape[:2])
        count, embedded, _, mask = with_virtual(self.embeddings, embedded, places, mask)
        embedded = dropout(embedded, self.config.dropout, subkey(key, 1))
        bias = self.encoder.bias(jnp.arange(embedded.shape[1]), embedded.shape[1])
        memory, found = self.encoder.stack(embedded, mask, bias=bias, key=subkey(key, 0), skip=count)
        return memory, {f"encoder/{name}": state for name, state in found.items()}, count

    def begin(self, batch, new: int):
        """The decoder's hidden state after the start token (or the batch's ``decoder_input_ids``), and what follows.

        Returns:
          ``[batch, width]``, and the state that `advance` takes.
        """
        memory, _, count = self.encode(batch)
        ids = batch.get("decoder_input_ids")
        ids = jnp.full((memory.shape[0], 1), self.config.start, jnp.int32) if ids is None else ids
        seen = grown(memory_mask(batch), count, memory.shape[1] - count, 1)
        state = {"caches": self.decoder.stack.empty_caches(memory, ids.shape[1] + new), "seen": seen.allowed, "at": 0}
        return self.advance(ids, state)

    def advance(self, ids, state):
        """The hidden state after some more tokens ``[batch, new]``, and the state with them in it."""
        slots = next(iter(state["caches"].values()))["own"][0].shape[1]
        bias = self.decoder.bias(state["at"] + jnp.arange(ids.shape[1]), slots)
        hidden, caches = self.decoder.stack.step(
            self.embeddings(ids), state["at"], state["caches"], seen=Mask(state["seen"]), bias=bias
        )
        return self._scaled(hidden)[:, -1], {**state, "caches": caches, "at": jnp.int32(state["at"] + ids.shape[1])}

    def _scaled(self, hidden):
        return hidden * jnp.asarray(self.config.width**-0.5, hidden.dtype) if self.config.scaled else hidden


class SharedTable(nnx.Module):
    """Rows of the token table in the compute type."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.dtype = config.dtype

    def __call__(self, ids):
        return embed(value(self.tokens), ids).astype(self.dtype)


class Side(nnx.Module):
    """Encoder or decoder: a stack and the biases of relative distances that its layers share."""

    def __init__(self, config: T5Config, layers: int, rngs: nnx.Rngs, *, crossed: bool):
        self.config, self.crossed = config, crossed
        gated = functools.partial(GatedMLP, bias=False) if config.gated else functools.partial(MLP, bias=False)
        pieces = Pieces(
            norm=lambda: RMSNorm(config.width, config.epsilon),
            attention=lambda: CrossAttention(
                config.width,
                config.heads,
                rngs=rngs,
                head_width=config.head_width,
                biases=(False,) * 4,
                scale=1.0,
                rate=config.attention_dropout,
            ),
            mlp=lambda: gated(config.width, config.mlp_width, config.activation, rngs),
        )
        self.stack = Stack(config, layers, pieces, crossed=crossed)
        self.distances = table(config.buckets, config.heads, rngs)

    def bias(self, places: Int[Array, " time"], keys: int):
        """``[1, heads, time, keys]`` biases of the scores for queries at these places."""
        distance = jnp.arange(keys)[None, :] - places[:, None]
        config = self.config
        which = bucket(distance, config.buckets, config.distance, bidirectional=not self.crossed)
        return embed(value(self.distances), which).transpose(2, 0, 1)[None]


def bucket(distance: Int[Array, "..."], buckets: int, longest: int, *, bidirectional: bool) -> Int[Array, "..."]:
    """The bucket of a key so far after the query: near ones have their own, far ones share logarithmically.

    Raffel et al. 2019, arXiv:1910.10683, section 2.1. Half of the buckets are for keys after the query where
    `bidirectional`; otherwise these fall into bucket 0.

    Example:
      >>> bucket(jnp.array([-20, -3, 0, 1]), 8, 12, bidirectional=True).tolist()
      [3, 2, 0, 5]
    """
    first = 0
    if bidirectional:
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(longest / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return first + jnp.where(distance < exact, distance, far)
