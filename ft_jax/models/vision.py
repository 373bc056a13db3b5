"""Small image encoders: a multilayer perceptron and a vision transformer."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.attention import Mask, SelfAttention
from ft_jax.models.configuration import check
from ft_jax.models.encoder import MLP
from ft_jax.models.layers import LayerNorm, Projection, activation, dropout, in_order, rematerialise, subkey, value


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """The shape of a multilayer perceptron on flattened images.

    Attributes:
      image: ``(height, width, channels)`` of an input.
      widths: of the hidden layers.
      classes: of the head; None for features alone.
      activation: after every hidden layer.
      input_dropout: rate on pixels, in training.
      dropout: rate on hidden layers, in training.
      dtype: compute type; parameters keep their own.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    widths: tuple[int, ...] = (256, 256)
    classes: int | None = 10
    activation: str = "relu"
    input_dropout: float = 0.0
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        check(self, divides=())
        if not self.widths:
            raise ValueError("MLPConfig.widths is empty; give at least one hidden width, such as (256,)")

    @property
    def width(self) -> int:
        """Features of the last hidden layer."""
        return self.widths[-1]


class Perceptron(nnx.Module):
    """Fully connected layers; ``layers/0`` reads the pixels."""

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.config = config
        sizes = (math.prod(config.image), *config.widths)
        self.layers = nnx.Dict(
            {
                str(i): Projection(inputs, outputs, bias=True, rngs=rngs, gain=2.0)
                for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
            }
        )
        self.head = _head(config, rngs)

    def __call__(self, batch, key=None):
        """``images [batch, height, width, channels]`` to features ``[batch, width]`` and no states."""
        config = self.config
        images = _checked(batch["images"], config.image)
        x = images.reshape(images.shape[0], -1).astype(config.dtype)
        x = dropout(x, config.input_dropout, subkey(key, len(config.widths)))
        for name, layer in in_order(self.layers):
            x = dropout(activation(config.activation)(layer(x)), config.dropout, subkey(key, int(name)))
        return x, {}


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
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    patch: int = 7
    width: int = 64
    layers: int = 4
    heads: int = 4
    mlp_width: int = 128
    classes: int | None = 10
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))
        if self.image[0] % self.patch or self.image[1] % self.patch:
            raise ValueError(f"ViTConfig.patch is {self.patch} and must divide both sides of image {self.image[:2]}")


class VisionTransformer(nnx.Module):
    """Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929: the first token's features."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = PatchEmbeddings(config, rngs)
        self.layers = nnx.Dict({str(i): VisionLayer(config, rngs) for i in range(config.layers)})
        self.norm = LayerNorm(config.width, config.epsilon)
        self.head = _head(config, rngs)

    def __call__(self, batch, key=None):
        """``images [batch, height, width, channels]`` to features ``[batch, width]`` and the states asked for."""
        config, states = self.config, {}
        hidden = self.embeddings(_checked(batch["images"], config.image), subkey(key, config.layers))
        for name, layer in in_order(self.layers):
            run = functools.partial(layer, key=subkey(key, int(name)))
            hidden, maps = rematerialise(run, config.remat)(hidden)
            if "hidden" in config.collect:
                states[f"layers/{name}"] = hidden
            if maps is not None:
                states[f"attention/{name}"] = maps
        return self.norm(hidden[:, 0]), states


class PatchEmbeddings(nnx.Module):
    """Linear patches after a class token, plus learned positions."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        height, width, channels = config.image
        self.config = config
        patches = (height // config.patch) * (width // config.patch)
        self.patches = Projection(config.patch**2 * channels, config.width, bias=True, rngs=rngs)
        self.first = nnx.Param(jax.random.normal(rngs.params(), (config.width,)) * 0.02)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (patches + 1, config.width)) * 0.02)

    def __call__(self, images, key):
        size, batch = self.config.patch, images.shape[0]
        height, width, channels = self.config.image
        tiles = images.reshape(batch, height // size, size, width // size, size, channels)
        tiles = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
        embedded = self.patches(tiles.astype(self.config.dtype))
        first = jnp.broadcast_to(value(self.first).astype(embedded.dtype), (batch, 1, self.config.width))
        tokens = jnp.concatenate([first, embedded], axis=1) + value(self.positions).astype(embedded.dtype)
        return dropout(tokens, self.config.dropout, key)


class VisionLayer(nnx.Module):
    """``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = LayerNorm(config.width, config.epsilon)
        self.attention = SelfAttention(config.width, config.heads, rngs=rngs, rate=config.attention_dropout)
        self.mlp_norm = LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs)

    def __call__(self, x, *, key):
        rate, maps = self.config.dropout, "attention" in self.config.collect
        attended, probabilities, _ = self.attention(self.attention_norm(x), Mask(), key=subkey(key, 0), maps=maps)
        x = x + dropout(attended, rate, subkey(key, 1))
        x = x + dropout(self.mlp(self.mlp_norm(x)), rate, subkey(key, 2))
        return x, probabilities


def _head(config, rngs):
    return None if config.classes is None else Projection(config.width, config.classes, bias=True, rngs=rngs)


def _checked(images, image):
    if images.shape[1:] != tuple(image):
        raise ValueError(
            f"images has shape {images.shape} and the model takes [batch, {', '.join(map(str, image))}]; "
            "resize them, or build the model with image=..."
        )
    return images
