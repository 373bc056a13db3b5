"""ModernBERT: a pre-norm encoder with rotary positions, gated MLPs and mostly local attention."""

import dataclasses
import functools

from flax import nnx

from ft_jax.core.weights import embed
from ft_jax.models.networks.encoder import Prediction
from ft_jax.models.networks.parts.attention import SelfAttention, mask_of, positions_of, rotary_angles
from ft_jax.models.networks.parts.configuration import check, check_length
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    activation,
    dropout,
    grafts_of,
    project,
    stays_in_sight,
    subkey,
    table,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.scanned import held, run_layers


@dataclasses.dataclass(frozen=True)
class ModernEncoderConfig:
    """The shape of a ModernBERT.

    Attributes:
      vocabulary: tokens in the table.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the gated MLP's hidden layer.
      positions: longest sequence, in tokens.
      window: in a local layer, a token sees so many before and after itself.
      local: for each layer, whether it is local.
      rope_theta: base of the rotary frequencies of global layers.
      local_rope_theta: of local ones.
      biases: whether attention projections have biases.
      mlp_biases: whether the MLPs' projections have.
      norm_biases: whether the norms have.
      activation: of the MLP's gate and of the prediction head.
      epsilon: of the norms.
      embedding_dropout: rate on embeddings, in training.
      dropout: rate on the MLP's hidden layer, in training.
      attention_dropout: rate on the attention maps and its outputs, in training.
      prediction: whether there is the masked-language head's dense layer and norm before the token table.
      prediction_bias: whether its dense layer has a bias.
      dtype: compute type; parameters keep their own. Norms, rotary positions and softmax are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      collect: of ``"hidden"``, ``"attention"``, ``"scores"``, ``"projections"`` (query, key, value): what
        `Outputs.states` holds of every layer.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int = 8192
    window: int = 64
    local: tuple[bool, ...] = ()
    rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0
    biases: bool = False
    mlp_biases: bool = False
    norm_biases: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-5
    embedding_dropout: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    prediction: bool = False
    prediction_bias: bool = False
    dtype: str = "float32"
    remat: str = "none"
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))
        if len(self.local) != self.layers:
            raise ValueError(
                f"ModernEncoderConfig.local speaks of {len(self.local)} layers and there are {self.layers}; "
                "give True or False for each"
            )


class ModernEncoder(nnx.Module):
    """Warner et al. 2024, "Smarter, Better, Faster, Longer", arXiv:2412.13663, section 2.1."""

    def __init__(self, config: ModernEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        self.layers = held([ModernLayer(config, i, rngs) for i in range(config.layers)], scan=False)
        self.norm = LayerNorm(config.width, config.epsilon, bias=config.norm_biases)
        make = functools.partial(Prediction, bias=config.prediction_bias, norm_bias=config.norm_biases)
        self.prediction = make(config, rngs) if config.prediction else None

    def __call__(self, batch, key=None):
        """``input_ids`` and, where given, masks, segments and positions of a batch.

        Returns:
          Hidden states ``[batch, time, width]`` and the states asked for by ``config.collect``.
        """
        config, mask = self.config, mask_of(batch, causal=False)
        check_length(batch["input_ids"], config.positions)
        hidden, positions, whole, count = self.embeddings(batch, mask, subkey(key, config.layers))
        kept = count if stays_in_sight(self.embeddings) else 0
        near = dataclasses.replace(whole, window=(config.window, config.window), kept=kept)
        width = config.width // config.heads
        seen = {
            True: {"mask": near, "angles": rotary_angles(positions, width, config.local_rope_theta, None)},
            False: {"mask": whole, "angles": rotary_angles(positions, width, config.rope_theta, None)},
        }
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: seen[config.local[number]], count)
        return self.norm(hidden[:, count:]), states


class Embeddings(nnx.Module):
    """Token rows, normalised."""

    def __init__(self, config: ModernEncoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.norm = LayerNorm(config.width, config.epsilon, bias=config.norm_biases)

    def __call__(self, batch, mask, key):
        """The embedded tokens, virtual ones of grafts first; positions and mask with them; how many they are."""
        tokens = embed(value(self.tokens), batch["input_ids"]).astype(self.config.dtype)
        count, tokens, positions, mask = with_virtual(self, tokens, positions_of(batch), mask)
        return dropout(self.norm(tokens), self.config.embedding_dropout, key), positions, mask, count


class ModernLayer(nnx.Module):
    """``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``; the first layer's input is normalised already."""

    def __init__(self, config: ModernEncoderConfig, index: int, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = LayerNorm(config.width, config.epsilon, bias=config.norm_biases) if index else None
        self.attention = SelfAttention(
            config.width,
            config.heads,
            rngs=rngs,
            biases=config.biases,
            output_bias=config.biases,
            rate=config.attention_dropout,
        )
        self.mlp_norm = LayerNorm(config.width, config.epsilon, bias=config.norm_biases)
        self.mlp = GatedMLP(config.width, config.mlp_width, config.activation, rngs, bias=config.mlp_biases)

    def __call__(self, x, *, mask, angles, key):
        config = self.config
        normal = x if self.attention_norm is None else self.attention_norm(x)
        attended, found, _ = self.attention(normal, mask, angles=angles, key=subkey(key, 0), collect=config.collect)
        x = x + dropout(attended, config.attention_dropout, subkey(key, 1))
        x = x + self.mlp(self.mlp_norm(x), config.dropout, subkey(key, 2))
        for graft in grafts_of(self):
            x = graft.output(x)
        return x, found


class GatedMLP(nnx.Module):
    """``down(activation(gate(x)) · up(x))``: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202."""

    def __init__(self, width: int, hidden: int, name: str, rngs: nnx.Rngs, *, bias: bool):
        self.gate = Projection(width, hidden, bias=bias, rngs=rngs)
        self.up = Projection(width, hidden, bias=bias, rngs=rngs)
        self.down = Projection(hidden, width, bias=bias, rngs=rngs)
        self.activation = activation(name)

    def __call__(self, x, rate: float = 0.0, key=None):
        gates, hidden = project(x, self.gate, self.up)
        return self.down(dropout(self.activation(gates) * hidden, rate, key))
