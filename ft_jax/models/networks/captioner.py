"""The multimodal half of CoCa's text decoder: what a text's hidden states become beside an image."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.networks.encoder import MLP
from ft_jax.models.networks.parts.attention import Mask, SelfAttention
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.cross_attention import CrossAttention
from ft_jax.models.networks.parts.layers import LayerNorm, Projection, dropout, subkey, value


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """The shape of a captioner.

    Attributes:
      vocabulary: tokens it predicts.
      width: of the text's hidden states and of the residual stream.
      image_width: of the image's tokens.
      layers: of self-attention, attention over the image, and an MLP.
      heads: dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      queries: learned ones that gather the image's tokens for the captions (256 in the paper).
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on every sublayer's output, in training.
      dtype: compute type; parameters keep their own.
    """

    vocabulary: int
    width: int
    image_width: int
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    queries: int = 16
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))


class Captioner(nnx.Module):
    """Yu et al. 2022, "CoCa", arXiv:2205.01917, section 3.2: cascaded pooling, and the multimodal decoder."""

    reads = ("image_tokens",)

    def __init__(self, config: CaptionerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.image = Projection(config.image_width, config.width, bias=True, rngs=rngs)
        self.queries = nnx.Param(jax.random.normal(rngs.params(), (config.queries, config.width)) * 0.02)
        self.pooling = CrossAttention(config.width, config.heads, rngs=rngs)
        self.pooling_norm = LayerNorm(config.width, config.epsilon)
        self.query = nnx.Param(jax.random.normal(rngs.params(), (1, config.width)) * 0.02)
        self.contrast = CrossAttention(config.width, config.heads, rngs=rngs)
        self.contrast_norm = LayerNorm(config.width, config.epsilon)
        self.layers = nnx.Dict({str(i): CaptionLayer(config, rngs) for i in range(config.layers)})
        self.norm = LayerNorm(config.width, config.epsilon)
        self.head = Projection(config.width, config.vocabulary, bias=False, rngs=rngs)

    def __call__(self, batch, key=None):
        """``image_tokens [batch, tokens, image_width]`` and, where given, ``text_hidden [batch, time, width]``.

        ``image_mask [batch, tokens]`` says which of the image's tokens are real, all where it is missing.

        Returns:
          Hidden states ``[batch, time, width]`` over which the head gives the next token, or without a text the
          image's vector ``[batch, width]``, which is among the states as ``"image"`` too.
        """
        tokens = self.image(batch["image_tokens"].astype(self.config.dtype))
        real = batch.get("image_mask")
        mask = Mask(None if real is None else (real > 0)[:, None, None, :])
        pooled = self._pooled(self.queries, self.pooling, self.pooling_norm, tokens, mask)
        image = self._pooled(self.query, self.contrast, self.contrast_norm, pooled, Mask())[:, 0]
        if "text_hidden" not in batch:
            return image, {"image": image}
        hidden = batch["text_hidden"].astype(self.config.dtype)
        for name in sorted(self.layers, key=int):
            hidden = self.layers[name](hidden, pooled, subkey(key, int(name)))
        return self.norm(hidden), {"image": image}

    def _pooled(self, queries, attention, norm, tokens, mask):
        queries = value(queries).astype(tokens.dtype)
        found, _ = attention(jnp.broadcast_to(queries, (tokens.shape[0], *queries.shape)), tokens, mask)
        return norm(found)


class CaptionLayer(nnx.Module):
    """Causal self-attention, attention over the image and an MLP, each after a norm and added."""

    def __init__(self, config: CaptionerConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = LayerNorm(config.width, config.epsilon)
        self.attention = SelfAttention(config.width, config.heads, rngs=rngs)
        self.cross_norm = LayerNorm(config.width, config.epsilon)
        self.cross_attention = CrossAttention(config.width, config.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs)

    def __call__(self, x, image, key):
        rate = self.config.dropout
        # What follows a caption is padding, which a causal mask keeps out of sight.
        attended, _, _ = self.attention(self.attention_norm(x), Mask(causal=True))
        x = x + dropout(attended, rate, subkey(key, 0))
        seen, _ = self.cross_attention(self.cross_norm(x), image, Mask())
        x = x + dropout(seen, rate, subkey(key, 1))
        return x + dropout(self.mlp(self.mlp_norm(x)), rate, subkey(key, 2))
