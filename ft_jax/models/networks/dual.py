"""Two towers with one space for images and text: CLIP and SigLIP."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.core.outputs import Outputs
from ft_jax.core.weights import embed
from ft_jax.models.networks.parts.attention import mask_of, positions_of
from ft_jax.models.networks.parts.configuration import check, check_length
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    dropout,
    subkey,
    table,
    unit,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.scanned import held, run_layers
from ft_jax.models.networks.vision import PreNormLayer, VisionTransformer, ViTConfig


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """The shape of a text tower.

    Attributes:
      vocabulary: tokens in the table.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      positions: longest sequence, in tokens.
      causal: whether a token sees those before it alone (CLIP).
      end: the token at whose first place the sequence's vector is read (CLIP); None for the last place (SigLIP),
        -1 for the place of the largest token, as the first CLIP checkpoints mean it.
      activation: of the MLP.
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
    heads: int
    mlp_width: int
    positions: int
    causal: bool = True
    end: int | None = -1
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))


@dataclasses.dataclass(frozen=True)
class DualConfig:
    """The shape of two towers.

    Attributes:
      vision: the image tower, without a head.
      text: the text tower.
      width: of the shared space.
      family: ``"clip"`` or ``"siglip"``. CLIP projects both towers' vectors without biases; SigLIP the text's alone,
        with one, and its logits have a bias too.
      dropout, dtype, remat, scan, collect: of both towers, in place of their own.
    """

    vision: ViTConfig
    text: TextTowerConfig
    width: int
    family: str = "clip"
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=())
        shared = {name: getattr(self, name) for name in ("dropout", "dtype", "remat", "scan", "collect")}
        for tower in ("vision", "text"):
            object.__setattr__(self, tower, dataclasses.replace(getattr(self, tower), **shared))
        if self.family == "siglip" and self.vision.width != self.width:
            raise ValueError(
                f"DualConfig.width is {self.width} and SigLIP's image tower gives vectors of {self.vision.width}; "
                "they must be equal, its images are not projected"
            )

    @property
    def layers(self) -> int:
        """Of both towers."""
        return self.vision.layers + self.text.layers

    @property
    def vocabulary(self) -> int:
        """Tokens in the text tower's table."""
        return self.text.vocabulary


class Dual(nnx.Module):
    """Radford et al. 2021, "CLIP", arXiv:2103.00020; Zhai et al. 2023, "SigLIP", arXiv:2303.15343."""

    reads = ("images", "input_ids")

    def __init__(self, config: DualConfig, *, rngs: nnx.Rngs):
        self.config = config
        sigmoid = config.family == "siglip"
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.text = TextTower(config.text, rngs=rngs)
        project = functools.partial(Projection, outputs=config.width, rngs=rngs)
        self.image_projection = None if sigmoid else project(config.vision.width, bias=False)
        self.text_projection = project(config.text.width, bias=sigmoid)
        self.log_scale = nnx.Param(jnp.float32(math.log(10.0 if sigmoid else 1 / 0.07)))
        self.logit_bias = nnx.Param(jnp.float32(-10.0)) if sigmoid else None

    def __call__(self, batch, key=None):
        """Features of the batch's ``images`` or ``input_ids``, or the similarity of each image to each text.

        Returns:
          Of one side alone, its features ``[batch, width]``. Of both, `Outputs` whose logits ``[images, texts]`` are
          ``exp(log_scale) · unit(images) @ unit(texts).T + logit_bias``, with the ``"image_features"`` and
          ``"text_features"`` among the states.
        """
        states, features = {}, {}
        if "images" in batch:
            hidden, found = self.vision(batch, subkey(key, 0))
            states |= {f"vision/{name}": state for name, state in found.items()}
            features["image"] = hidden if self.image_projection is None else self.image_projection(hidden)
        if "input_ids" in batch:
            hidden, found = self.text(batch, subkey(key, 1))
            states |= {f"text/{name}": state for name, state in found.items()}
            features["text"] = self.text_projection(hidden)
        if len(features) == 1:
            return *features.values(), states
        image, text = (unit(vectors) for vectors in features.values())
        states |= {f"{side}_features": vectors for side, vectors in features.items()}
        bias = None if self.logit_bias is None else jnp.broadcast_to(value(self.logit_bias), text.shape[:1])
        return Outputs(jnp.exp(value(self.log_scale)) * image, text.T, bias, states)


class TextTower(nnx.Module):
    """Pre-norm layers over learned positions, and the vector at the sequence's end."""

    def __init__(self, config: TextTowerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = TextEmbeddings(config, rngs)
        self.layers = held([PreNormLayer(config, rngs) for _ in range(config.layers)], scan=config.scan)
        self.norm = LayerNorm(config.width, config.epsilon)

    def __call__(self, batch, key=None):
        """``input_ids`` and, where given, the mask, to ``[batch, width]`` and the states asked for."""
        config = self.config
        hidden, mask, count = self.embeddings(batch, subkey(key, config.layers))
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: {"mask": mask}, count)
        ends = jnp.expand_dims(self._end(batch["input_ids"]) + count, (1, 2))
        return self.norm(jnp.take_along_axis(hidden, ends, axis=1)[:, 0]), states

    def _end(self, ids):
        end = self.config.end
        if end is None:
            return jnp.full(ids.shape[:1], ids.shape[1] - 1)
        return jnp.argmax(ids if end < 0 else ids == end, axis=1)


class TextEmbeddings(nnx.Module):
    """Sum of token and position rows."""

    def __init__(self, config: TextTowerConfig, rngs: nnx.Rngs):
        self.config = config
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.positions = table(config.positions, config.width, rngs)

    def __call__(self, batch, key):
        """The embedded tokens, the virtual ones of grafts first; the mask that counts them in; how many they are."""
        config, ids = self.config, batch["input_ids"]
        check_length(ids, config.positions)
        places = {name: field for name, field in batch.items() if name != "attention_mask"}
        embedded = embed(value(self.tokens), ids) + embed(value(self.positions), positions_of(places))
        mask = mask_of(batch, causal=config.causal)
        count, embedded, _, mask = with_virtual(self, embedded.astype(config.dtype), positions_of(places), mask)
        return dropout(embedded, config.dropout, key), mask, count


def sigmoid_contrastive(logits: jax.Array) -> jax.Array:
    """SigLIP's loss of paired images and texts: ``-Σ_ij log σ(± logits_ij) / n``, plus on the diagonal.

    Zhai et al. 2023, arXiv:2303.15343, equation 1.

    Example:
      >>> round(float(sigmoid_contrastive(jnp.zeros((2, 2)))), 4)
      1.3863
    """
    signs = 2 * jnp.eye(logits.shape[0]) - 1
    return -jax.nn.log_sigmoid(signs * logits).sum() / logits.shape[0]
