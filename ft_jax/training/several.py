"""Runs of models that read several modalities: the model's spec, the loss that compares, and what it is measured by."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from ft_jax import models, multimodal
from ft_jax.core import Loss, Outputs
from ft_jax.models.networks.dual import DualConfig
from ft_jax.multimodal import alike, pairs
from ft_jax.multimodal.evaluation import recalls
from ft_jax.multimodal.towers import unit
from ft_jax.outside import listed, printable
from ft_jax.training.metrics import HostMetric

MODALITIES = ("image", "text", "audio")
FEATURES = "_features"


@dataclasses.dataclass(frozen=True)
class Encoders:
    """One network of several modalities: a published text encoder, and transformers that learn from nothing.

    Attributes:
      modalities: of ``image``, ``text`` and ``audio``.
      text: address of the text's encoder, see `ft_jax.models.load`.
      image: ``(height, width, channels)`` that images are brought to.
      patch: side of a square patch in pixels, dividing height and width.
      samples: of sound at 16 kHz; what is longer is cut, what is shorter is filled with silence.
      hidden: width of the encoders that learn from nothing.
      layers: of those encoders.
      width: of the representation.
      fusion: see `ft_jax.multimodal.model`; ``mean`` where a network compares.
      classes: outputs of the head; ``"data"`` for as many as the data has, None for the representation alone.
      address: of a model that holds both towers, such as a CLIP; in place of all of the above.
    """

    modalities: tuple[str, ...] = ("image", "text")
    text: str = ""
    image: tuple[int, int, int] = (64, 64, 3)
    patch: int = 8
    samples: int = 16000
    hidden: int = 128
    layers: int = 4
    width: int = 128
    fusion: str = "mean"
    classes: int | Literal["data"] | None = None
    address: str = ""

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong before anything is read."""
        wrong = [name for name in self.modalities if name not in MODALITIES]
        if wrong or not self.modalities:
            raise ValueError(
                f"model.modalities has {printable(wrong[0]) if wrong else 'none'}; it takes {', '.join(MODALITIES)}"
            )
        if "text" in self.modalities and not (self.text or self.address):
            raise ValueError("model.text names no text encoder; give it, such as --model.text hf://org/model")

    def for_data(self, spec: Any) -> "Encoders":
        """With as many classes as the data has, where they are to be those."""
        return dataclasses.replace(self, classes=spec.outputs()) if self.classes == "data" else self

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        if self.address:
            found = models.load(self.address, abstract=key is None)
            if not isinstance(found.config, DualConfig):
                raise ValueError(
                    f"{self.address} is a {type(found.config).__name__}, which has no two towers; give a CLIP or a "
                    "SigLIP, or leave model.address out"
                )
            return found
        if self.classes == "data":
            raise ValueError("model.classes is 'data', which only a run knows; give a number")
        keys = dict(
            zip((*MODALITIES, "network"), (None,) * 4 if key is None else jax.random.split(key, 4), strict=True)
        )
        made = {name: getattr(self, f"_{name}")(keys[name]) for name in self.modalities}
        whole = multimodal.model(made, self.fusion, self.classes, width=self.width, key=keys["network"])
        drawn = tuple(f"encoders/{name}/*" for name in made if name != "text")
        return dataclasses.replace(whole, drawn=(*whole.drawn, *drawn))

    def _image(self, key):
        shape = {"width": self.hidden, "layers": self.layers, "mlp_width": 4 * self.hidden}
        config = models.ViTConfig(self.image, self.patch, classes=None, tokens=True, mean=(0.5,) * self.image[2],
                                  deviation=(0.5,) * self.image[2], **shape)  # fmt: skip
        return models.vit(config, key)

    def _text(self, key):
        return models.load(self.text, abstract=key is None)

    def _audio(self, key):
        shape = {"width": self.hidden, "layers": self.layers, "mlp_width": 4 * self.hidden}
        return models.build(models.SignalConfig(self.samples, mels=80, **shape), key)


@dataclasses.dataclass(frozen=True)
class Writer:
    """A vision-language model: a published decoder that reads the tokens of an image tower that learns from nothing.

    Attributes:
      language: address of the decoder, see `ft_jax.models.load`.
      image: ``(height, width, channels)`` that images are brought to.
      patch: side of a square patch in pixels, dividing height and width.
      hidden: width of the image tower.
      layers: of it.
      address: of a vision-language model, such as a LLaVA or a PaliGemma; in place of all of the above.
    """

    language: str = ""
    image: tuple[int, int, int] = (64, 64, 3)
    patch: int = 16
    hidden: int = 128
    layers: int = 4
    address: str = ""

    def check(self) -> None:
        """Raises ValueError where no decoder is named."""
        if not (self.language or self.address):
            raise ValueError("model.language names no decoder; give it, such as --model.language hf://org/model")

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        if self.address:
            found = models.load(self.address, abstract=key is None)
            if not isinstance(found.config, models.VisionLanguageConfig):
                raise ValueError(f"{self.address} is a {type(found.config).__name__}, which writes nothing to images")
            return found
        decoder = models.load(self.language, abstract=key is None)
        if not isinstance(decoder.config, models.DecoderConfig):
            raise ValueError(f"{self.language} is a {type(decoder.config).__name__}; give model.language a decoder")
        mean = (0.5,) * self.image[2]
        tower = models.ViTConfig(
            self.image, self.patch, self.hidden, self.layers, 4, 4 * self.hidden, None, mean=mean, deviation=mean
        )
        # Behind the table's last token, so that no text has it.
        shape = {"image_token": decoder.config.vocabulary, "feature_layer": None, "dtype": decoder.config.dtype}
        config = models.VisionLanguageConfig(tower, decoder.config, **shape, scan=decoder.config.scan)
        small = dataclasses.replace(config, language=dataclasses.replace(decoder.config, vocabulary=2, layers=1))
        drawn = models.build(small, key).params
        made = models.build(config, None)
        params = {"vision": drawn["vision"], "projector": drawn["projector"], "language": decoder.params}
        return dataclasses.replace(
            made, params=params, tokenizer=decoder.tokenizer, stop_tokens=decoder.stop_tokens,
            pad_token=decoder.pad_token, drawn=("vision/*", "projector/*"),
        )  # fmt: skip


def compared(model: Any) -> Loss:
    """The contrastive loss that fits a model: a CLIP's or SigLIP's own, else `ft_jax.multimodal.alike`.

    Raises:
      ValueError: a model of one modality, or one with a head.
    """
    config = model.config
    if isinstance(config, DualConfig):
        return pairs(model.apply, "sigmoid" if config.family == "siglip" else "softmax")
    known = getattr(config, "modalities", ())
    if len(known) < 2 or config.classes is not None:
        raise ValueError(
            f"a comparison needs a model of two modalities or more, without classes; it has {listed(known)}"
        )
    return alike(model.apply, known)


def features(outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """What `compared` leaves of a batch: by modality the representations ``[batch, width]``, of length 1."""
    found = {name: x for name, x in outputs.states.items() if name.endswith(FEATURES)}
    return {name.removesuffix(FEATURES): unit(x) for name, x in found.items()}


def right_pairs(parts: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Which examples are right answers to which, ``bool [examples, examples]``: themselves, and those alike.

    An image may have several captions, and a caption several images; each of them is right.

    Args:
      parts: of a batch, by modality.

    Example:
      >>> right_pairs({"text": {"input_ids": np.array([[1, 2], [1, 3], [1, 2]])}}).astype(int).tolist()
      [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    rows = len(jax.tree.leaves(dict(parts))[0])
    right = np.eye(rows, dtype=bool)
    for part in parts.values():
        shown = next((part[field] for field in ("images", "input_ids", "audio") if field in part), None)
        if shown is not None:
            alike_rows: dict[bytes, list[int]] = {}
            for row, one in enumerate(np.asarray(shown)):
                alike_rows.setdefault(one.tobytes(), []).append(row)
            for places in alike_rows.values():
                right[np.ix_(places, places)] = True
    return right


def real_rows(batch: Mapping[str, Any]) -> np.ndarray:
    """The places of the rows that do not fill a batch up."""
    holder = batch if "weights" in batch else next((x for x in batch.values() if isinstance(x, Mapping)), {})
    weights, rows = holder.get("weights"), len(jax.tree.leaves(dict(batch))[0])
    if weights is None:
        return np.arange(rows)
    return np.flatnonzero(np.asarray(weights).reshape(rows, -1).max(axis=1) > 0)


def recall(which: Literal["image_to_text", "text_to_image"]) -> HostMetric:
    """Recall@1 among all examples of a set, by the features of images and texts; see `right_pairs`."""

    def score(predictions, batch):
        lacks = [name for name in ("image", "text") if name not in predictions]
        if lacks:
            raise ValueError(f"it has no {lacks[0]} to find")
        kept = real_rows(batch)
        parts = jax.tree.map(lambda x: np.asarray(x)[kept], {name: batch.get(name, batch) for name in predictions})
        x, y = (np.asarray(predictions[name])[kept] for name in ("image", "text"))
        return recalls(x @ y.T, ks=(1,), same=right_pairs(parts))[f"{which}@1"]

    return HostMetric(score)


RECALLS = {name: recall(name) for name in ("image_to_text", "text_to_image")}
