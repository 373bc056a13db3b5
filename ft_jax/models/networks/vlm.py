"""Vision-language models: an image tower whose tokens take places among a decoder's. LLaVA and PaliGemma."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ft_jax.models.networks.decoder import Decoder
from ft_jax.models.networks.decoder_config import DecoderConfig
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.layers import Projection, activation, grafts_of, subkey
from ft_jax.models.networks.vision import VisionTransformer, ViTConfig

SHARED = ("dropout", "dtype", "remat", "scan", "collect")


@dataclasses.dataclass(frozen=True)
class VisionLanguageConfig:
    """The shape of a vision-language model.

    Attributes:
      vision: the image tower, without a head.
      language: the decoder.
      image_token: the id in whose places the image's tokens stand.
      feature_layer: the image tower's residual stream after this many layers is what the decoder gets; counted from
        the end where negative (-1 is after the last); None for after the last, normalised.
      first: whether the class token's vector is among the image's.
      hidden: whether the projector is an MLP with a hidden layer as wide as the decoder (LLaVA 1.5), or linear.
      projector_bias: whether it has biases.
      activation: of its hidden layer.
      prefix: whether prompt and image see each other whatever their order (PaliGemma).
      family: ``"llava"`` or ``"paligemma"``.
      tower: what a checkpoint puts before the image tower's names.
      dropout, dtype, remat, scan, collect: of both parts, in place of their own.
    """

    vision: ViTConfig
    language: DecoderConfig
    image_token: int
    feature_layer: int | None = -2
    first: bool = False
    hidden: bool = True
    projector_bias: bool = True
    activation: str = "gelu"
    prefix: bool = False
    family: str = "llava"
    tower: str = "vision_tower."
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=())
        shared = {name: getattr(self, name) for name in SHARED}
        for part in ("vision", "language"):
            object.__setattr__(self, part, dataclasses.replace(getattr(self, part), **shared))
        layers = self.vision.layers
        if self.feature_layer is not None and not -layers - 1 <= self.feature_layer <= layers:
            raise ValueError(
                f"VisionLanguageConfig.feature_layer is {self.feature_layer} and the image tower has {layers} layers; "
                "count from 0 (the embeddings), or from -1 (after the last)"
            )
        if self.prefix and self.language.window is not None:
            raise ValueError("VisionLanguageConfig.prefix is set and its language has a window; a prefix needs all")

    @property
    def layers(self) -> int:
        """Of both parts."""
        return self.vision.layers + self.language.layers

    @property
    def width(self) -> int:
        """Of the decoder's residual stream."""
        return self.language.width

    @property
    def vocabulary(self) -> int:
        """Tokens in the decoder's table."""
        return self.language.vocabulary

    @property
    def logit_softcap(self) -> float | None:
        """The decoder's."""
        return self.language.logit_softcap

    @property
    def image_tokens(self) -> int:
        """How many places an image takes."""
        return self.vision.patches + (self.vision.class_token and self.first)


class VisionLanguage(nnx.Module):
    """Liu et al. 2023, "Visual Instruction Tuning", arXiv:2304.08485, and, with a prefix, PaliGemma.

    That is Beyer et al. 2024, arXiv:2407.07726.
    """

    def __init__(self, config: VisionLanguageConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTransformer(config.vision, rngs=rngs)
        self.projector = Projector(config, rngs)
        self.language = Decoder(config.language, rngs=rngs)

    def __call__(self, batch, key=None):
        """``input_ids`` with the image token in an image's places, ``images`` and, where given, the decoder's fields.

        ``images`` are ``[batch, height, width, channels]``, or ``[batch, count, …]`` where each example has as many;
        they may be missing. For a model with a prefix, ``token_type_ids`` say what is of it (0) and what follows (1);
        else what is before the first place with a weight; without labels, all is.

        Returns:
          Hidden states ``[batch, time, width]`` and the states asked for by ``config.collect``, named ``"vision/…"``
          and ``"language/…"``.
        """
        embedded, states = self.merged(batch, subkey(key, 0))
        fields = {**batch, "embedded": embedded}
        if self.config.prefix:
            if grafts_of(self.language.embeddings):
                raise ValueError("virtual tokens before a prefix would see what follows it; use a model without prefix")
            fields["prefix"] = prefix_of(batch)
        hidden, found = self.language(fields, subkey(key, 1))
        return hidden, states | {f"language/{name}": state for name, state in found.items()}

    def merged(self, batch, key=None):
        """Embeddings of the tokens, the images' in their places, and the image tower's states."""
        ids = batch["input_ids"]
        places = ids == self.config.image_token
        if "images" not in batch:
            return self.language.embeddings(ids), {}
        images = batch["images"]
        several = images.shape[1] if images.ndim == 5 else 1
        _check_places(places, several * self.config.image_tokens)
        features, states = self.features(images.reshape(-1, *images.shape[-3:]), key)
        features = features.reshape(ids.shape[0], -1, features.shape[-1])
        # The image token may lie beyond the table.
        embedded = self.language.embeddings(jnp.where(places, 0, ids))
        which = jnp.clip(jnp.cumsum(places, axis=1) - 1, 0, features.shape[1] - 1)
        taken = jnp.take_along_axis(features, which[..., None], axis=1)
        return jnp.where(places[..., None], taken.astype(embedded.dtype), embedded), states

    def features(self, images, key=None):
        """The projected tokens ``[images, image_tokens, width]`` and the image tower's states."""
        config, layer = self.config, self.config.feature_layer
        if layer is None:
            hidden, states = self.vision.stream({"images": images}, key)
            hidden = self.vision.norm(hidden)
        else:
            hidden, states = self.vision.stream(
                {"images": images}, key, layer if layer >= 0 else config.vision.layers + 1 + layer
            )
        if config.vision.class_token and not config.first:
            hidden = hidden[:, 1:]
        return self.projector(hidden), {f"vision/{name}": state for name, state in states.items()}

    def begin(self, batch, new: int):
        """The hidden state after the prompts, which may be padded on either side, and what follows.

        Returns:
          ``[batch, width]``, and the state that `advance` takes.
        """
        embedded, _ = self.merged(batch)
        ids = batch["input_ids"]
        real = batch.get("attention_mask", jnp.ones_like(ids)) > 0
        prompt, slots = ids.shape[1], ids.shape[1] + new
        if slots > self.config.language.positions:
            raise ValueError(
                f"a prompt of {prompt} tokens and {new} new ones exceed the {self.config.language.positions} the model "
                "takes; shorten one of them"
            )
        order = jnp.argsort(real, axis=1, stable=True)
        embedded = jnp.take_along_axis(embedded, order[..., None], axis=1)
        ids, real = (jnp.take_along_axis(x, order, axis=1) for x in (ids, real))
        filled = jnp.pad(real, ((0, 0), (0, new)), constant_values=True)
        seen = jnp.arange(slots)[None, :] < (prompt if self.config.prefix else jnp.arange(1, prompt + 1)[:, None])
        allowed = jnp.broadcast_to(filled[:, None, None, :] & seen, (ids.shape[0], 1, prompt, slots))
        positions = jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)
        caches = self.language.empty_caches(ids.shape[0], slots)
        hidden, caches = self.language.step(ids, positions, allowed, caches, 0, embedded)
        state = {"caches": caches, "filled": filled, "slot": jnp.int32(prompt), "lengths": positions[:, -1] + 1}
        return hidden[:, -1], state

    def advance(self, ids, state):
        """The hidden state after one more token ``[batch, 1]``, and the state with it in it."""
        slot, filled = state["slot"], state["filled"]
        allowed = (filled & (jnp.arange(filled.shape[1]) <= slot))[:, None, None, :]
        positions = state["lengths"][:, None]
        hidden, caches = self.language.step(ids, positions, allowed, state["caches"], slot)
        return hidden[:, -1], {**state, "caches": caches, "slot": slot + 1, "lengths": state["lengths"] + 1}


class Projector(nnx.Module):
    """From the image tower's width to the decoder's."""

    def __init__(self, config: VisionLanguageConfig, rngs: nnx.Rngs):
        inputs, outputs, bias = config.vision.width, config.language.width, config.projector_bias
        self.hidden = Projection(inputs, outputs, bias=bias, rngs=rngs) if config.hidden else None
        self.output = Projection(outputs if config.hidden else inputs, outputs, bias=bias, rngs=rngs)
        self.activation = activation(config.activation)

    def __call__(self, x):
        return self.output(x if self.hidden is None else self.activation(self.hidden(x)))


def prefix_of(batch):
    """1 where a token is of the prefix: by ``token_type_ids``, else by ``weights``, else everywhere.

    Raises:
      KeyError: where the batch has labels and nothing says where the prefix ends.

    Example:
      >>> prefix_of({"input_ids": jnp.zeros((1, 4)), "labels": None, "weights": jnp.array([[0, 1, 1, 0]])}).tolist()
      [[1, 1, 0, 0]]
    """
    if "token_type_ids" in batch:
        return (batch["token_type_ids"] == 0).astype(jnp.int32)
    if "labels" not in batch:
        return jnp.ones(batch["input_ids"].shape, jnp.int32)
    if "weights" not in batch:
        raise KeyError(
            "batch has labels and no 'token_type_ids' [batch, time] (0 = prompt and image, 1 = answer); add them, or "
            "'weights', which are 0 up to the last token of the prompt"
        )
    # The first place with a weight predicts the answer's first token and is the prompt's last.
    counted = jnp.cumsum(batch["weights"] > 0, axis=1)
    return jnp.pad(counted[:, :-1] == 0, ((0, 0), (1, 0)), constant_values=True).astype(jnp.int32)


def _check_places(places, expected):
    """Refuses rows with more or fewer image tokens than their images have, where the ids are at hand."""
    if isinstance(places, jax.core.Tracer):
        return
    counts = np.asarray(places).sum(axis=1)
    if (counts != expected).any():
        row = int(np.argmax(counts != expected))
        raise ValueError(
            f"input_ids of example {row} has {int(counts[row])} image tokens and its images take {expected}; "
            "repeat the image token as often in the prompt"
        )
