"""One network that takes several modalities: an encoder for each, a fusion to one vector, a head."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import named
from ft_jax.core.outputs import Outputs, real_tokens
from ft_jax.core.params import Params, digest
from ft_jax.core.weights import matmul
from ft_jax.models.model import Forward, Model
from ft_jax.multimodal.network.fusion import FUSIONS, options_of
from ft_jax.multimodal.presence import PRESENT, present_in
from ft_jax.outside import printable


@dataclasses.dataclass(frozen=True)
class MultimodalConfig:
    """The shape of a multimodal network.

    Attributes:
      encoders: ``(modality, the encoder's forward function)`` in order.
      fusion: its kind, see `ft_jax.multimodal.network.FUSIONS`.
      options: of the fusion, ``(name, value)``.
      width: of the representation.
      classes: of the head; None for the representation alone.
    """

    encoders: tuple[tuple[str, Forward], ...]
    fusion: str
    options: tuple[tuple[str, int], ...]
    width: int
    classes: int | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """By name, in order."""
        return tuple(name for name, _ in self.encoders)


@dataclasses.dataclass(frozen=True)
class Multimodal:
    """The pure function ``(params, batch, key) -> Outputs`` of a configuration.

    Attributes:
      config: of the network.
      kind: of the head, as `ft_jax.models` call it.
    """

    config: MultimodalConfig
    kind: str | None = None

    def __call__(self, params: Params, batch: Mapping[str, Any], key: jax.Array | None = None) -> Outputs:
        """Runs the model on a batch with a part for each modality that is there.

        Args:
          params: ``encoders/<modality>``, ``projections/<modality>``, ``fusion`` and ``head``.
          batch: ``{modality: its encoder's fields, with present [batch] or as `ft_jax.data.collate` writes it}``. A
            modality that is left out is missing for all examples.
          key: for dropout in training; None for evaluation.

        Raises:
          KeyError: a batch without any of the modalities, or with another one.
        """
        config = self.config
        there = [(name, encoder) for name, encoder in config.encoders if batch.get(name)]
        if not there:
            raise KeyError(
                f"the model reads {', '.join(config.modalities)} and the batch has {named(batch)}; give it one of them"
            )
        # What says example by example whether it is there is a modality, as `ft_jax.data.modalities` writes it.
        others = {name: part for name, part in batch.items() if isinstance(part, Mapping) and PRESENT in part}
        lacks = [
            name for name in others if not (name in config.modalities or isinstance(others[name][PRESENT], Mapping))
        ]
        if lacks:
            raise KeyError(
                f"the batch has the modality {printable(lacks[0])} and the model reads {', '.join(config.modalities)}; "
                "leave it out, or build the model with an encoder for it"
            )
        tokens, masks, present, states = {}, {}, {}, {}
        for name, encoder in there:
            own = None if key is None else jax.random.fold_in(key, digest(name))
            tokens[name], masks[name] = encoding(encoder, params["encoders"][name], batch[name], own)
            projection = params["projections"][name]
            tokens[name] = matmul(projection["kernel"], tokens[name], projection["bias"])
            present[name] = present_in(batch[name])
            # What stands in the place of a missing input may be anything; nothing of it, gradients included, goes on.
            tokens[name] = jnp.where(present[name][:, None, None] > 0, tokens[name], 0.0)
            states[f"present/{name}"] = present[name]
        fused = FUSIONS[config.fusion].fuse(params["fusion"], tokens, masks, present, dict(config.options))
        head = params.get("head")
        unembedding, bias = (None, None) if head is None else (head["kernel"], head.get("bias"))
        return Outputs(hidden=fused, unembedding=unembedding, bias=bias, states=states)


def encoding(
    encoder: Forward, params: Params, batch: Mapping[str, Any], key: jax.Array | None = None
) -> tuple[Float[Array, "batch time width"], Float[Array, "batch time"]]:
    """What a modality's encoder gives, as tokens and their mask: one vector an example is one token.

    Example:
      >>> from ft_jax import models
      >>> network = models.tiny_encoder(jax.random.key(0))
      >>> ids = {"input_ids": jnp.ones((2, 3), int), "attention_mask": jnp.array([[1, 1, 0], [1, 1, 1]])}
      >>> tokens, mask = encoding(network.apply, network.params, ids)
      >>> tokens.shape, mask.tolist()
      ((2, 3, 16), [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    """
    fields = {name: field for name, field in batch.items() if name != PRESENT}
    hidden = encoder(params, fields, key).hidden
    if hidden.ndim == 2:
        hidden = hidden[:, None]
    real = real_tokens(fields)
    if real is None or real.shape != hidden.shape[:2]:
        real = jnp.ones(hidden.shape[:2])
    return hidden.astype(jnp.float32), (real > 0).astype(jnp.float32)


def model(
    encoders: Mapping[str, Model],
    fusion: str = "concatenation",
    head: int | None = None,
    *,
    width: int = 64,
    key: jax.Array | None,
    **options: int,
) -> Model:
    """One model of several modalities: ``{modality: encoder}`` -> tokens -> one representation -> a head.

    Every encoder is a model of `ft_jax.models` (text, images, `models.Signal` for sound and signals, `models.Tabular`
    for tables); its tokens are projected to `width`, fused to one vector ``[batch, width]``, and read by the head.
    Parameters lie under ``encoders/<modality>/…``, so filters and adapters choose parts of it as of any model:
    ``never("model/encoders/text/*")`` freezes one, ``lora(targets="*/encoders/image/*attention/*/kernel")`` adapts one,
    ``discriminative`` gives one its own rate.

    Examples may lack modalities, see `ft_jax.multimodal.present_in`. What is missing has no part in the answer.

    Args:
      encoders: by modality, which is also the field of the batch.
      fusion: ``"concatenation"``, ``"gate"``, ``"mean"``, ``"cross_attention"`` or ``"resampler"``.
      head: classes; None for the representation alone.
      width: of the representation.
      key: draws projections, fusion and head; None for shapes alone.
      **options: of the fusion, such as ``latents=8`` of the resampler.

    Raises:
      ValueError: an unknown fusion or option, no encoder, or one that already has a head.

    Example:
      >>> from ft_jax import models
      >>> image = models.build(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16, classes=None), jax.random.key(0))
      >>> text = models.tiny_encoder(jax.random.key(1))
      >>> both = model({"image": image, "text": text}, "gate", 3, key=jax.random.key(2))
      >>> batch = {"image": {"images": jnp.zeros((2, 8, 8, 1)), "present": jnp.array([1, 0])},
      ...          "text": {"input_ids": jnp.ones((2, 3), int)}}
      >>> both.apply(both.params, batch).logits.shape
      (2, 3)
    """
    chosen = options_of(fusion, options, width, tuple(encoders))
    for name, encoder in encoders.items():
        if encoder.apply.kind is not None or getattr(encoder.config, "classes", None):
            raise ValueError(f"the encoder of {name!r} has a head of its own; give it without one (classes=None)")
    config = MultimodalConfig(
        tuple((name, encoder.apply) for name, encoder in encoders.items()), fusion, tuple(chosen.items()), width, head
    )

    def fresh(key):
        projection, joining, last = jax.random.split(key, 3)

        def projected(name, encoder):
            own = jax.random.fold_in(projection, digest(name))
            inputs = width_of(encoder)
            return {"kernel": jax.random.normal(own, (inputs, width)) / math.sqrt(inputs), "bias": jnp.zeros(width)}

        drawn = {
            "projections": {name: projected(name, encoder) for name, encoder in encoders.items()},
            "fusion": FUSIONS[fusion].init(joining, tuple(encoders), width, chosen),
        }
        if head is not None:
            drawn["head"] = {"kernel": jax.random.normal(last, (width, head)) * 0.02, "bias": jnp.zeros(head)}
        return drawn

    drawn = jax.eval_shape(lambda: fresh(jax.random.key(0))) if key is None else fresh(key)
    params = {"encoders": {name: encoder.params for name, encoder in encoders.items()}, **drawn}
    tokenizer = next((encoder.tokenizer for encoder in encoders.values() if encoder.tokenizer is not None), None)
    apply = Multimodal(config, None if head is None else "classification")
    return Model(config, params, apply, tokenizer, drawn=("projections/*", "fusion/*", "head/*"))


def width_of(encoder: Model) -> int:
    """How wide an encoder's tokens are."""
    return encoder.config.width
