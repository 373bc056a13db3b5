"""Bidirectional encoders of BERT's shape: BERT, MiniLM, RoBERTa, DistilBERT."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from ft_jax.core.weights import embed
from ft_jax.models.networks.parts.attention import SelfAttention, mask_of, positions_of
from ft_jax.models.networks.parts.configuration import check, check_length
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    activation,
    dropout,
    grafts_of,
    subkey,
    table,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.scanned import held, run_layers


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder.

    Attributes:
      vocabulary: tokens in the table.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      positions: longest sequence, in tokens.
      types: token types (sentence A, sentence B); None where there is no table of them (DistilBERT).
      padding_row: where not None, RoBERTa's padding token: its position's row is its own number, and real tokens'
        positions are counted from the next row.
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      pooler: whether there is BERT's dense tanh layer over the first token (pooling ``"pooler"``).
      prediction: whether there is the masked-language head's dense layer and norm before the token table.
      family: the published format it is saved in: ``"bert"``, ``"distilbert"``, ``"roberta"`` or one of RoBERTa's like.
      dtype: compute type; parameters keep their own. Norms and softmax are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      scan: whether the layers' parameters are stacked and run in one scan, which compiles once for all layers.
      collect: of ``"hidden"``, ``"attention"``, ``"scores"``, ``"projections"`` (query, key, value): what
        `Outputs.states` holds of every layer.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int = 512
    types: int | None = 2
    padding_row: int | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler: bool = False
    prediction: bool = False
    family: str = "bert"
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))

    @property
    def longest(self) -> int:
        """Tokens in the longest sequence: RoBERTa's table has rows that no token of a sequence takes."""
        return self.positions if self.padding_row is None else self.positions - self.padding_row - 1


class Encoder(nnx.Module):
    """Devlin et al. 2018, "BERT", arXiv:1810.04805: post-norm transformer layers over learned positions.

    Also RoBERTa (Liu et al. 2019, arXiv:1907.11692) and DistilBERT (Sanh et al. 2019, arXiv:1910.01108).
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        self.layers = held([EncoderLayer(config, rngs) for _ in range(config.layers)], scan=config.scan)
        self.pooler = Projection(config.width, config.width, bias=True, rngs=rngs) if config.pooler else None
        self.prediction = Prediction(config, rngs) if config.prediction else None

    def __call__(self, batch, key=None):
        """``input_ids`` and, where given, masks, segments, positions and ``token_type_ids`` of a batch.

        Returns:
          Hidden states ``[batch, time, width]`` and the states asked for by ``config.collect``.
        """
        config = self.config
        hidden, mask, count = self.embeddings(batch, mask_of(batch, causal=False), subkey(key, config.layers))
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: {"mask": mask}, count)
        return hidden[:, count:], states

    def pool(self, first):
        """BERT's sentence vector: ``tanh`` of a dense layer over the first token's hidden state."""
        return jnp.tanh(self.pooler(first))


class Embeddings(nnx.Module):
    """Sum of token, position and type rows, normalised."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.positions = table(config.positions, config.width, rngs)
        self.types = None if config.types is None else table(config.types, config.width, rngs)
        self.norm = LayerNorm(config.width, config.epsilon)

    def __call__(self, batch, mask, key):
        """The embedded tokens, the virtual ones of grafts first; the mask that counts them in; how many they are."""
        ids, types = batch["input_ids"], batch.get("token_type_ids")
        tokens = embed(value(self.tokens), ids)
        count, tokens, positions, mask = with_virtual(self, tokens, self._positions(batch), mask)
        check_length(positions, self.config.longest)
        first = 0 if self.config.padding_row is None else self.config.padding_row + 1
        total = tokens + embed(value(self.positions), positions + first)
        if self.types is not None:
            types = jnp.zeros_like(ids) if types is None else types
            total += embed(value(self.types), jnp.pad(types, ((0, 0), (count, 0))))
        return dropout(self.norm(total.astype(self.config.dtype)), self.config.dropout, key), mask, count

    def _positions(self, batch):
        """Places from 0; RoBERTa's padding tokens are at -1, the row before the first token's."""
        if self.config.padding_row is None or "positions" in batch or "segment_ids" in batch:
            return positions_of(batch)
        real = batch["input_ids"] != self.config.padding_row
        return jnp.where(real, jnp.cumsum(real, axis=1, dtype=jnp.int32), 0) - 1


class EncoderLayer(nnx.Module):
    """``x ← norm(x + attention(x))``, then ``x ← norm(x + mlp(x))``."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention = SelfAttention(config.width, config.heads, rngs=rngs, rate=config.attention_dropout)
        self.attention_norm = LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs)
        self.mlp_norm = LayerNorm(config.width, config.epsilon)

    def __call__(self, x, *, mask, key):
        rate = self.config.dropout
        attended, found, _ = self.attention(x, mask, key=subkey(key, 0), collect=self.config.collect)
        x = self.attention_norm(x + dropout(attended, rate, subkey(key, 1)))
        x = self.mlp_norm(x + dropout(self.mlp(x), rate, subkey(key, 2)))
        for graft in grafts_of(self):
            x = graft.output(x)
        return x, found


class MLP(nnx.Module):
    """``down(activation(up(x)))``."""

    def __init__(self, width: int, hidden: int, name: str, rngs: nnx.Rngs, *, bias: bool = True):
        self.up = Projection(width, hidden, bias=bias, rngs=rngs)
        self.down = Projection(hidden, width, bias=bias, rngs=rngs)
        self.activation = activation(name)

    def __call__(self, x):
        return self.down(self.activation(self.up(x)))


class Prediction(nnx.Module):
    """The masked-language head up to the token table, ``norm(activation(dense(x)))``, and the logits' bias."""

    def __init__(self, config, rngs: nnx.Rngs, *, bias: bool = True, norm_bias: bool = True):
        self.dense = Projection(config.width, config.width, bias=bias, rngs=rngs)
        self.norm = LayerNorm(config.width, config.epsilon, bias=norm_bias)
        self.bias = nnx.Param(jnp.zeros((config.vocabulary,)))
        self.activation = activation(config.activation)

    def __call__(self, x):
        return self.norm(self.activation(self.dense(x)))
