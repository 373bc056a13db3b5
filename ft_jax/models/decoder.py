"""A Llama-style causal decoder."""

import dataclasses
import functools
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ft_jax.core.weights import embed
from ft_jax.models.attention import Mask, SelfAttention, mask_of, positions_of, rotary_angles
from ft_jax.models.configuration import check, check_length
from ft_jax.models.layers import (
    Projection,
    RMSNorm,
    activation,
    dropout,
    grafts_of,
    in_order,
    rematerialise,
    subkey,
    table,
    value,
    with_virtual,
)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's change of the rotary frequencies for contexts longer than those trained on.

    Grattafiori et al. 2024, "The Llama 3 Herd of Models", arXiv:2407.21783. Wavelengths above
    ``original_positions / low_frequency_factor`` are stretched by `factor`, those below
    ``original_positions / high_frequency_factor`` stay, and between them the two are mixed linearly.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int

    def apply(self, frequencies: Float[Array, " half"]) -> Float[Array, " half"]:
        """The scaled frequencies."""
        wavelengths = 2 * math.pi / frequencies
        span = self.high_frequency_factor - self.low_frequency_factor
        mix = (self.original_positions / wavelengths - self.low_frequency_factor) / span
        mix = jnp.clip(mix, 0.0, 1.0)
        return (1 - mix) * frequencies / self.factor + mix * frequencies


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
      vocabulary: tokens in the table.
      width: of the residual stream.
      layers: how many.
      heads: query heads.
      key_value_heads: heads of keys and values, dividing `heads`.
      head_width: of one head, even.
      mlp_width: of the gated MLP's hidden layer.
      positions: longest sequence, in tokens.
      rope_theta: base of the rotary frequencies.
      rope_scaling: Llama 3.1's scaling, or None.
      biases: whether query, key and value projections have biases (Qwen 2).
      output_bias: whether the attention's output projection has one.
      mlp_biases: whether the MLP's projections have biases.
      tied: whether the unembedding is the token table.
      activation: of the MLP's gate.
      epsilon: of the norms.
      dropout: rate on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp_width: int
    positions: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    biases: bool = False
    output_bias: bool = False
    mlp_biases: bool = False
    tied: bool = True
    activation: str = "silu"
    epsilon: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("key_value_heads", "heads"),))
        if self.head_width % 2:
            raise ValueError(f"DecoderConfig.head_width is {self.head_width}; rotary positions need an even one")


class Decoder(nnx.Module):
    """Touvron et al. 2023, "LLaMA", arXiv:2302.13971: pre-norm layers with rotary positions and a gated MLP."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = TokenTable(config, rngs)
        self.layers = nnx.Dict({str(i): DecoderLayer(config, rngs) for i in range(config.layers)})
        self.norm = RMSNorm(config.width, config.epsilon)
        self.head = None if config.tied else Projection(config.width, config.vocabulary, bias=False, rngs=rngs)

    def __call__(self, batch, key=None):
        """``input_ids`` and, where given, masks, segments and positions of a batch.

        Returns:
          Hidden states ``[batch, time, width]`` and the states asked for by ``config.collect``.
        """
        ids = batch["input_ids"]
        check_length(ids, self.config.positions)
        hidden, states, _ = self._run(ids, positions_of(batch), mask_of(batch, causal=True), key)
        return hidden, states

    def step(self, ids, positions, allowed, caches, index):
        """Some new tokens after the cached ones.

        Args:
          ids: ``[batch, new]`` tokens.
          positions: ``[batch, new]``.
          allowed: ``[batch, 1, new, slots]``, True where a new token may look.
          caches: per layer, keys and values ``[batch, slots, key_value_heads, head_width]``.
          index: the slot of the first new token.

        Returns:
          Hidden states ``[batch, new, width]`` and the caches with the new tokens in them.
        """
        hidden, _, caches = self._run(ids, positions, Mask(allowed), None, caches, index)
        return hidden, caches

    def _run(self, ids, positions, mask, key, caches=None, index=None):
        config = self.config
        hidden, states, kept = self.embeddings(ids), {}, {}
        count, hidden, positions, mask = with_virtual(self.embeddings, hidden, positions, mask)
        angles = rotary_angles(positions, config.head_width, config.rope_theta, config.rope_scaling)
        for name, layer in in_order(self.layers):
            run = functools.partial(
                layer,
                mask=mask,
                angles=angles,
                key=subkey(key, int(name)),
                cache=None if caches is None else caches[name],
                index=index,
            )
            hidden, maps, kept[name] = rematerialise(run, config.remat)(hidden)
            if "hidden" in config.collect:
                states[f"layers/{name}"] = hidden[:, count:]
            if maps is not None:
                states[f"attention/{name}"] = maps
        return self.norm(hidden[:, count:]), states, kept


class TokenTable(nnx.Module):
    """Rows of the token table in the compute type."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.dtype = config.dtype

    def __call__(self, ids):
        return embed(value(self.tokens), ids).astype(self.dtype)


class DecoderLayer(nnx.Module):
    """``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = RMSNorm(config.width, config.epsilon)
        self.attention = SelfAttention(
            config.width,
            config.heads,
            rngs=rngs,
            key_value_heads=config.key_value_heads,
            head_width=config.head_width,
            biases=config.biases,
            output_bias=config.output_bias,
            rate=config.attention_dropout,
        )
        self.mlp_norm = RMSNorm(config.width, config.epsilon)
        self.mlp = GatedMLP(config, rngs)

    def __call__(self, x, *, mask, angles, key, cache, index):
        rate, maps = self.config.dropout, "attention" in self.config.collect
        attended, probabilities, cache = self.attention(
            self.attention_norm(x), mask, angles=angles, key=subkey(key, 0), maps=maps, cache=cache, index=index
        )
        x = x + dropout(attended, rate, subkey(key, 1))
        x = x + dropout(self.mlp(self.mlp_norm(x)), rate, subkey(key, 2))
        for graft in grafts_of(self):
            x = graft.output(x)
        return x, probabilities, cache


class GatedMLP(nnx.Module):
    """Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202: ``down(activation(gate(x)) · up(x))``."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        bias = config.mlp_biases
        self.gate = Projection(config.width, config.mlp_width, bias=bias, rngs=rngs)
        self.up = Projection(config.width, config.mlp_width, bias=bias, rngs=rngs)
        self.down = Projection(config.mlp_width, config.width, bias=bias, rngs=rngs)
        self.activation = activation(config.activation)

    def __call__(self, x):
        return self.down(self.activation(self.gate(x)) * self.up(x))
