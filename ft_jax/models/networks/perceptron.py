"""A multilayer perceptron on images."""

import dataclasses
import itertools
import math

from flax import nnx

from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.layers import Projection, activation, dropout, subkey
from ft_jax.models.networks.parts.scanned import in_order


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

    reads = ("images",)

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.config = config
        sizes = (math.prod(config.image), *config.widths)
        self.layers = nnx.Dict(
            {
                str(i): Projection(inputs, outputs, bias=True, rngs=rngs, gain=2.0)
                for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
            }
        )
        self.head = classifier(config, rngs)

    def __call__(self, batch, key=None):
        """``images [batch, height, width, channels]`` to features ``[batch, width]`` and no states."""
        config = self.config
        images = checked(batch["images"], config.image)
        x = images.reshape(images.shape[0], -1).astype(config.dtype)
        x = dropout(x, config.input_dropout, subkey(key, len(config.widths)))
        for name, layer in in_order(self.layers):
            x = dropout(activation(config.activation)(layer(x)), config.dropout, subkey(key, int(name)))
        return x, {}


def classifier(config, rngs) -> Projection | None:
    """The head of an image network, where it has classes."""
    return None if config.classes is None else Projection(config.width, config.classes, bias=True, rngs=rngs)


def checked(images, image: tuple[int, int, int]):
    """`images` themselves.

    Raises:
      ValueError: where they are not of the size `image`.
    """
    if images.shape[1:] != tuple(image):
        raise ValueError(
            f"images has shape {images.shape} and the model takes [batch, {', '.join(map(str, image))}]; "
            "resize them, or build the model with image=..."
        )
    return images
