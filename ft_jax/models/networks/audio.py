"""Whisper: speech to text."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx

from ft_jax.core.weights import embed
from ft_jax.models.networks.encoder import MLP
from ft_jax.models.networks.encoder_decoder import Pieces, Stack, decoder_fields, decoder_inputs
from ft_jax.models.networks.log_mel import HOP, log_mel
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.cross_attention import CrossAttention
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    activation,
    dropout,
    subkey,
    table,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.masks import Mask, mask_of, positions_of


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """The shape of a Whisper.

    Attributes:
      vocabulary: tokens in the decoder's table.
      mels: bins of the mel scale.
      width: of the residual streams.
      layers: of both sides together.
      decoder_layers: of the decoder alone.
      heads: attention heads of the encoder, dividing `width`.
      decoder_heads: of the decoder.
      mlp_width: of the hidden layer of the encoder's MLPs.
      decoder_mlp_width: of the decoder's.
      sources: places of the encoder; a sound has twice as many frames of 10 ms.
      positions: longest text, in tokens.
      activation: of the MLPs.
      scaled: whether token embeddings are multiplied by ``√width``.
      start: the token before a text's first.
      pad: the token that fills up.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own. The spectra, norms and softmax are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      scan: whether the layers' parameters are stacked and run in one scan, which compiles once for all layers.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    vocabulary: int
    mels: int
    width: int
    layers: int
    decoder_layers: int
    heads: int
    decoder_heads: int
    mlp_width: int
    decoder_mlp_width: int
    sources: int = 1500
    positions: int = 448
    activation: str = "gelu"
    scaled: bool = False
    start: int | None = 50257
    pad: int | None = 50256
    epsilon: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"), ("decoder_heads", "width")))
        if not self.decoder_layers < self.layers:
            raise ValueError(
                f"WhisperConfig.decoder_layers is {self.decoder_layers} of {self.layers} layers; the encoder needs some"
            )

    @property
    def samples(self) -> int:
        """Of a sound, at 16 kHz."""
        return 2 * self.sources * HOP


class Whisper(nnx.Module):
    """Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv:2212.04356."""

    reads = ("input_features", "audio")
    mask_field = "decoder_attention_mask"

    def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(config, rngs)
        encoder = (config.heads, config.mlp_width)
        decoder = (config.decoder_heads, config.decoder_mlp_width)
        layers = config.layers - config.decoder_layers
        self.encoder = Stack(config, layers, _pieces(config, *encoder, rngs), crossed=False)
        self.embeddings = TextEmbeddings(config, rngs)
        self.decoder = Stack(config, config.decoder_layers, _pieces(config, *decoder, rngs), crossed=True)

    def __call__(self, batch, key=None):
        """``input_features [batch, mels, frames]`` or ``audio [batch, samples]``, and ``decoder_input_ids`` or labels.

        Sound at 16 kHz is cut or filled up to the model's length. The decoder's masks and segments are
        ``decoder_attention_mask`` and ``decoder_segment_ids``; its segments all hear the same sound.

        Returns:
          The decoder's hidden states ``[batch, time, width]``; the encoder's as the state ``"encoder"``, and the
          states asked for by ``config.collect``, named ``"encoder/…"`` and ``"decoder/…"``.
        """
        config = self.config
        memory, states = self.encode(batch, subkey(key, 0))
        fields = decoder_fields(batch) | {"input_ids": decoder_inputs(batch, config.start, config.pad)}
        hidden, mask, count = self.embeddings(
            fields["input_ids"], positions_of(fields), mask_of(fields, causal=True), subkey(key, 2)
        )
        hidden, found = self.decoder(hidden, mask, memory=memory, seen=Mask(), key=subkey(key, 1), skip=count)
        states |= {f"decoder/{name}": state for name, state in found.items()}
        return hidden[:, count:], {"encoder": memory, **states}

    def encode(self, batch, key=None):
        """The memory ``[batch, sources, width]`` and the encoder's states."""
        config = self.config
        features = batch.get("input_features")
        if features is None:
            features = log_mel(batch["audio"], config.mels, config.samples)
        hidden = dropout(self.stem(features), config.dropout, subkey(key, 1))
        memory, found = self.encoder(hidden, Mask(), key=subkey(key, 0))
        return memory, {f"encoder/{name}": state for name, state in found.items()}

    def begin(self, batch, new: int):
        """The decoder's hidden state after the start token (or the batch's ``decoder_input_ids``), and what follows.

        Returns:
          ``[batch, width]``, and the state that `advance` takes.
        """
        memory, _ = self.encode(batch)
        ids = batch.get("decoder_input_ids")
        ids = jnp.full((memory.shape[0], 1), self.config.start, jnp.int32) if ids is None else ids
        if ids.shape[1] + new > self.config.positions:
            raise ValueError(
                f"a beginning of {ids.shape[1]} tokens and {new} new ones exceed the {self.config.positions} the model "
                "takes; shorten one of them"
            )
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        hidden, _, count = self.embeddings(ids, positions, mask_of({}, causal=True), None)
        caches = self.decoder.empty_caches(memory, count + ids.shape[1] + new)
        hidden, caches = self.decoder.step(hidden, 0, caches, seen=Mask())
        return hidden[:, -1], {"caches": caches, "at": jnp.int32(ids.shape[1]), "virtual": jnp.int32(count)}

    def advance(self, ids, state):
        """The hidden state after one more token ``[batch, 1]``, and the state with it in it."""
        at = jnp.broadcast_to(state["at"], ids.shape)
        hidden = self.embeddings.placed(ids, at)
        hidden, caches = self.decoder.step(hidden, state["virtual"] + state["at"], state["caches"], seen=Mask())
        return hidden[:, -1], {**state, "caches": caches, "at": state["at"] + 1}


class Stem(nnx.Module):
    """Two convolutions over time, the second at every other frame, plus sinusoidal positions."""

    def __init__(self, config: WhisperConfig, rngs: nnx.Rngs):
        self.config = config
        self.first = Projection(3 * config.mels, config.width, bias=True, rngs=rngs)
        self.second = Projection(3 * config.width, config.width, bias=True, rngs=rngs)
        self.positions = nnx.Param(sinusoids(config.sources, config.width))

    def __call__(self, features):
        config = self.config
        expected = (config.mels, 2 * config.sources)
        if features.shape[1:] != expected:
            raise ValueError(
                f"input_features has shape {features.shape} and the model takes [batch, {expected[0]}, {expected[1]}]; "
                "cut or fill up the sound to its length, or pass it as 'audio'"
            )
        gelu = activation("gelu")
        hidden = gelu(self.first(windows(features.swapaxes(1, 2).astype(config.dtype))))
        hidden = gelu(self.second(windows(hidden)[:, ::2]))
        return hidden + value(self.positions).astype(hidden.dtype)


def windows(x):
    """Each frame with its neighbours, ``[batch, time, 3 · width]``; silence is beside the ends.

    Example:
      >>> windows(jnp.array([[[1], [2]]])).tolist()
      [[[0, 1, 2], [1, 2, 0]]]
    """
    wide = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate([wide[:, :-2], wide[:, 1:-1], wide[:, 2:]], axis=-1)


def sinusoids(places: int, width: int):
    """``[places, width]``: sines, then cosines, of wavelengths from ``2π`` to ``2π · 10000``."""
    steps = jnp.exp(-math.log(10000) / (width // 2 - 1) * jnp.arange(width // 2))
    angles = jnp.arange(places)[:, None] * steps
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class TextEmbeddings(nnx.Module):
    """Sum of token and position rows."""

    def __init__(self, config: WhisperConfig, rngs: nnx.Rngs):
        self.config = config
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.positions = table(config.positions, config.width, rngs)

    def __call__(self, ids, positions, mask, key):
        """The embedded tokens, the virtual ones of grafts first; the mask that counts them in; how many they are."""
        if ids.shape[1] > self.config.positions:
            raise ValueError(
                f"decoder_input_ids has {ids.shape[1]} tokens a sequence and the model takes {self.config.positions}; "
                "truncate them"
            )
        hidden = self.placed(ids, positions)
        count, hidden, _, mask = with_virtual(self, hidden, positions, mask)
        return dropout(hidden, self.config.dropout, key), mask, count

    def placed(self, ids, positions):
        """``[batch, time, width]`` tokens at their positions."""
        config = self.config
        hidden = embed(value(self.tokens), ids).astype(config.dtype)
        hidden = hidden * jnp.asarray(math.sqrt(config.width), config.dtype) if config.scaled else hidden
        return hidden + embed(value(self.positions), positions).astype(config.dtype)


def _pieces(config: WhisperConfig, heads: int, mlp_width: int, rngs: nnx.Rngs) -> Pieces:
    return Pieces(
        norm=lambda: LayerNorm(config.width, config.epsilon),
        attention=lambda: CrossAttention(
            config.width, heads, rngs=rngs, biases=(True, False, True, True), rate=config.attention_dropout
        ),
        mlp=lambda: MLP(config.width, mlp_width, config.activation, rngs),
    )
