"""Vision transformers: ViT, DINOv2, and the image towers of CLIP and SigLIP."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.networks.encoder import MLP
from ft_jax.models.networks.modern_encoder import GatedMLP
from ft_jax.models.networks.parts.attention import Mask, SelfAttention
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.cross_attention import CrossAttention
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    dropout,
    grafts_of,
    subkey,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.scanned import held, run_layers
from ft_jax.models.networks.perceptron import MLPConfig, Perceptron, checked, classifier

__all__ = ["MLPConfig", "Perceptron", "PreNormLayer", "ViTConfig", "VisionTransformer"]


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a vision transformer.

    Attributes:
      image: ``(height, width, channels)`` of an input.
      patch: side of a square patch in pixels, dividing height and width.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      classes: of the head; None for features alone.
      tokens: whether the output is every token's vector, the class token's first, in place of one an image.
      class_token: whether a learned token before the patches gathers what the image is.
      attention_pool: whether a learned query attends over the patches for the image's vector (SigLIP).
      patch_bias: whether the projection of patches has a bias.
      first_norm: whether the embeddings are normalised (CLIP).
      layer_scale: whether each sublayer's output is scaled by a learned vector (DINOv2).
      gated: whether the MLPs are gated (DINOv2's largest).
      mask_token: whether there is a token to put in place of the patches of the batch's ``patch_mask``.
      mean, deviation: of the pixels' channels, taken off and divided by; None where images come so already.
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      family: the published format it is saved in: ``"vit"`` or ``"dinov2"``.
      dtype: compute type; parameters keep their own. Norms and softmax are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      scan: whether the layers' parameters are stacked and run in one scan, which compiles once for all layers.
      collect: of ``"hidden"``, ``"attention"``, ``"scores"``, ``"projections"`` (query, key, value): what
        `Outputs.states` holds of every layer.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    patch: int = 7
    width: int = 64
    layers: int = 4
    heads: int = 4
    mlp_width: int = 128
    classes: int | None = 10
    tokens: bool = False
    class_token: bool = True
    attention_pool: bool = False
    patch_bias: bool = True
    first_norm: bool = False
    layer_scale: bool = False
    gated: bool = False
    mask_token: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    family: str = "vit"
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise ValueError(f"ViTConfig.patch is {self.patch} and must divide both sides of image {self.image[:2]}")

    @property
    def patches(self) -> int:
        """How many an image has."""
        return (self.image[0] // self.patch) * (self.image[1] // self.patch)


class VisionTransformer(nnx.Module):
    """Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929, and its kin.

    DINOv2 is Oquab et al. 2023, arXiv:2304.07193; CLIP's tower Radford et al. 2021, arXiv:2103.00020; SigLIP's Zhai
    et al. 2023, arXiv:2303.15343.
    """

    reads = ("images",)

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = PatchEmbeddings(config, rngs)
        self.first_norm = LayerNorm(config.width, config.epsilon) if config.first_norm else None
        make = functools.partial(PreNormLayer, config, rngs, scaled=config.layer_scale, gated=config.gated)
        self.layers = held([make() for _ in range(config.layers)], scan=config.scan)
        self.norm = LayerNorm(config.width, config.epsilon)
        self.pooling = AttentionPool(config, rngs) if config.attention_pool else None
        self.head = classifier(config, rngs)

    def __call__(self, batch, key=None):
        """``images [batch, height, width, channels]`` to features ``[batch, width]`` and the states asked for."""
        hidden, states = self.stream(batch, key)
        if self.config.tokens or self.pooling is not None:
            hidden = self.norm(hidden)
            return hidden if self.config.tokens else self.pooling(hidden), states
        if self.config.class_token:
            return self.norm(hidden[:, 0]), states
        return self.norm(hidden).mean(axis=1), states

    def stream(self, batch, key=None, layers: int | None = None):
        """The residual stream ``[batch, tokens, width]`` after the first `layers` (all where None), before any norm."""
        config = self.config
        hidden, count = self.embeddings(batch, subkey(key, config.layers))
        if self.first_norm is not None:
            hidden = self.first_norm(hidden)
        hidden, states = run_layers(
            self.layers, hidden, config, key, lambda number: {"mask": Mask()}, skip=count, first=layers
        )
        return hidden[:, count:], states


class PatchEmbeddings(nnx.Module):
    """Linear patches after a class token, plus learned positions."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        self.config = config
        count = config.patches + config.class_token
        inputs = config.patch**2 * config.image[2]
        self.patches = Projection(inputs, config.width, bias=config.patch_bias, rngs=rngs)
        self.first = _drawn((config.width,), rngs) if config.class_token else None
        self.positions = _drawn((count, config.width), rngs)
        self.mask = nnx.Param(jnp.zeros((config.width,))) if config.mask_token else None

    def __call__(self, batch, key):
        """The embedded tokens, the virtual ones of grafts first, and how many these are."""
        config = self.config
        tokens = self.patches(tiles(checked(batch["images"], config.image), config).astype(config.dtype))
        if "patch_mask" in batch:
            if self.mask is None:
                raise ValueError("the batch has patch_mask and the model no mask token; build it with mask_token=True")
            hidden = value(self.mask).astype(tokens.dtype)
            tokens = jnp.where(batch["patch_mask"][..., None] > 0, hidden, tokens)
        if self.first is not None:
            first = value(self.first).astype(tokens.dtype)
            first = jnp.broadcast_to(first, (tokens.shape[0], 1, config.width))
            tokens = jnp.concatenate([first, tokens], axis=1)
        tokens = tokens + value(self.positions).astype(tokens.dtype)
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape[:2])
        count, tokens, _, _ = with_virtual(self, tokens, places, Mask())
        return dropout(tokens, config.dropout, key), count


def tiles(images, config: ViTConfig):
    """Square patches ``[batch, patches, patch · patch · channels]``, row by row, their pixels normalised."""
    if config.mean is not None:
        images = (images - jnp.asarray(config.mean)) / jnp.asarray(config.deviation)
    size, batch = config.patch, images.shape[0]
    height, width, channels = config.image
    cut = images.reshape(batch, height // size, size, width // size, size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


class PreNormLayer(nnx.Module):
    """``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``.

    Args:
      config: with width, heads, mlp_width, activation, epsilon and dropouts.
      rngs: for the parameters.
      scaled: whether what is added is scaled by a learned vector (Touvron et al. 2021, arXiv:2103.17239).
      gated: whether the MLP is gated by SiLU.
    """

    def __init__(self, config, rngs: nnx.Rngs, *, scaled: bool = False, gated: bool = False):
        self.config = config
        self.attention_norm = LayerNorm(config.width, config.epsilon)
        self.attention = SelfAttention(config.width, config.heads, rngs=rngs, rate=config.attention_dropout)
        self.mlp_norm = LayerNorm(config.width, config.epsilon)
        if gated:
            self.mlp = GatedMLP(config.width, config.mlp_width, "silu", rngs, bias=True)
        else:
            self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs)
        self.attention_scale, self.mlp_scale = (
            nnx.Param(jnp.ones((config.width,))) if scaled else None for _ in range(2)
        )

    def __call__(self, x, *, mask, key):
        rate, collect = self.config.dropout, self.config.collect
        attended, found, _ = self.attention(self.attention_norm(x), mask, key=subkey(key, 0), collect=collect)
        x = x + dropout(_scaled(attended, self.attention_scale), rate, subkey(key, 1))
        x = x + dropout(_scaled(self.mlp(self.mlp_norm(x)), self.mlp_scale), rate, subkey(key, 2))
        for graft in grafts_of(self):
            x = graft.output(x)
        return x, found


class AttentionPool(nnx.Module):
    """A learned query over all tokens, then an MLP: Zhai et al. 2022, arXiv:2106.04560, section 3.3."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        self.query = _drawn((config.width,), rngs)
        self.attention = CrossAttention(config.width, config.heads, rngs=rngs)
        self.norm = LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs)

    def __call__(self, x):
        query = jnp.broadcast_to(value(self.query).astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        pooled, _ = self.attention(query, x, Mask())
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


def _scaled(x, factor):
    return x if factor is None else x * value(factor).astype(x.dtype)


def _drawn(shape, rngs):
    return nnx.Param(jax.random.normal(rngs.params(), shape) * 0.02)
