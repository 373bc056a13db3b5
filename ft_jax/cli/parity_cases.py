"""Random batches for ``ft-jax parity``, as a model here and as transformers take them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ft_jax.models import (
    DecoderConfig,
    DualConfig,
    Model,
    T5Config,
    VisionLanguageConfig,
    ViTConfig,
    WhisperConfig,
)

LENGTHS = (11, 7, 1)
"""Real tokens of the sequences of a batch."""

ANSWER = 9
"""Tokens of a decoder's sequences beside an encoder."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch.

    Attributes:
      name: what is tried with it.
      batch: for the model here.
      kwargs: for the reference, as NumPy arrays.
      mask: where outputs count, broadcast against them; None for everywhere.
    """

    name: str
    batch: Mapping[str, np.ndarray]
    kwargs: Mapping[str, np.ndarray]
    mask: np.ndarray | None = None


def cases(model: Model, random: np.random.Generator) -> list[Case]:
    """Batches of what the model reads; a decoder's padded on either side, and as long as its window and about so.

    Raises:
      ValueError: where it reads something that is not known here.
    """
    config = model.config
    if isinstance(config, ViTConfig):
        images, pixels = _images(config, random)
        return [Case("images", {"images": images}, {"pixel_values": pixels})]
    if isinstance(config, DualConfig):
        return [_towers(config, random)]
    if isinstance(config, VisionLanguageConfig):
        return [_image_and_text(config, random)]
    if isinstance(config, WhisperConfig):
        features = random.normal(size=(2, config.mels, 2 * config.sources)).astype(np.float32)
        return [_labelled("sound and text", config, {"input_features": features}, random)]
    if isinstance(config, T5Config):
        ids, mask = _padded(config.vocabulary, (config.pad,), LENGTHS, random, fill=config.pad or 0)
        return [_labelled("text to text", config, {"input_ids": ids, "attention_mask": mask}, random)]
    if not hasattr(config, "vocabulary"):
        raise ValueError(f"parity knows models that read tokens, images or sound; {type(config).__name__} is another")
    return _sequences(model, random)


def _sequences(model, random) -> list[Case]:
    config = model.config
    window = getattr(config, "window", None)
    edges = (window + 3, window, window - 1) if isinstance(window, int) and 1 < window < 512 else None
    found = [_tokens(model, "padded on the right", LENGTHS, random, left=False)]
    found += [_tokens(model, "at the window's edges", edges, random, left=False)] if edges else []
    causal = isinstance(config, DecoderConfig)
    return found + ([_tokens(model, "padded on the left", LENGTHS, random, left=True)] if causal else [])


def _tokens(model, name, lengths, random, left) -> Case:
    lengths = np.minimum(lengths, model.config.positions)
    ids, mask = _padded(model.config.vocabulary, (model.pad_token,), lengths, random, fill=model.pad_token, left=left)
    kwargs = {"input_ids": ids, "attention_mask": mask}
    if left:
        # Without them transformers counts the padding as tokens where positions are learned.
        kwargs["position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return Case(name, {"input_ids": ids, "attention_mask": mask}, kwargs, mask)


def _padded(vocabulary, without, lengths, random, fill=0, left=False):
    """Random ids from 3 on but those of `without`, and the mask of the real ones."""
    real = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    real = real[:, ::-1] if left else real
    ids = random.choice(np.setdiff1d(np.arange(3, vocabulary), [x for x in without if x is not None]), real.shape)
    return np.where(real, ids, fill).astype(np.int32), real.astype(np.int32)


def _images(config, random):
    """Images with channels last, and the pixels that the reference gets: normalised and channels first."""
    images = random.random((2, *config.image), np.float32)
    pixels = images
    if config.mean is not None:
        pixels = (images - np.float32(config.mean)) / np.float32(config.deviation)
    return images, pixels.transpose(0, 3, 1, 2)


def _labelled(name, config, batch, random) -> Case:
    """With the tokens a decoder beside an encoder shall give."""
    length = min(ANSWER, getattr(config, "positions", ANSWER))
    labels, _ = _padded(config.vocabulary, (config.pad, config.start), (length, length, length), random)
    first = next(iter(batch.values()))
    batch = {**batch, "labels": labels[: first.shape[0]]}
    return Case(name, batch, batch)


def _towers(config, random) -> Case:
    images, pixels = _images(config.vision, random)
    text = config.text
    if config.family == "siglip":
        ids, _ = _padded(text.vocabulary, (), (min(9, text.positions),) * 3, random)
        return Case(
            "images and texts", {"input_ids": ids, "images": images}, {"input_ids": ids, "pixel_values": pixels}
        )
    # CLIP's text vector is the one at its end token, by its older rule the largest id.
    end = text.vocabulary - 1 if text.end in (None, -1) else text.end
    ids, mask = _padded(text.vocabulary - 1, (end,), np.minimum((9, 6, 3), text.positions), random)
    ids[np.arange(3), mask.sum(axis=1) - 1] = end
    batch = {"input_ids": ids, "attention_mask": mask}
    return Case("images and texts", batch | {"images": images}, batch | {"pixel_values": pixels})


def _image_and_text(config, random) -> Case:
    images, pixels = _images(config.vision, random)
    words, _ = _padded(config.language.vocabulary, (config.image_token,), (6, 6), random)
    count = config.vision.patches + config.first
    picture = np.full((2, count), config.image_token, np.int32)
    ids = np.concatenate([words[:, :1], picture, words[:, 1:]], axis=1)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if config.prefix:
        batch["token_type_ids"] = (np.arange(ids.shape[1]) >= ids.shape[1] - 3).astype(np.int32) * np.ones_like(ids)
    return Case("an image and text", batch | {"images": images}, batch | {"pixel_values": pixels})
