"""A kept model of several modalities at work on one example, of which any may be missing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax import data
from ft_jax.models.networks.dual import DualConfig
from ft_jax.multimodal.network.alike import SCALE
from ft_jax.outside import printable
from ft_jax.training.own_data.together import Together, encoders_of
from ft_jax.training.serving.kept import Kept
from ft_jax.training.serving.use import BATCH, Prediction, class_names, prediction, scores_of
from ft_jax.training.specs import check_targets, classes_of


def predict_parts(kept: Kept, parts: Mapping[str, str | Path]) -> Prediction:
    """The classes of one example out of its files and texts.

    Args:
      kept: of `load_run`, whose model is one of `ft_jax.multimodal.model`.
      parts: by modality, a path of an image or a wav file, or a text.

    Raises:
      ValueError: the model is of one kind of input, has no classes, or lacks a modality; a broken file; no part.
      FileNotFoundError: there is no such file.
    """
    known = _encoders(kept, parts)
    if compares(kept):
        raise ValueError(f"the model of {kept.run} gives no classes, only a representation; train it with a head")
    batch = {name: _read(kept, name, known[name], [what]) for name, what in parts.items()}
    return prediction(kept.model, np.asarray(kept.compiled()(batch).logits)[0])


def predict_table(kept: Kept, address: str) -> Iterator[tuple[int, Prediction]]:
    """The classes of every example of a table, tars or a set of tensorflow-datasets, as a run would have read them.

    Args:
      kept: of `load_run`, whose model is one of `ft_jax.multimodal.model` with a head.
      address: as `ft_jax.training.own_data.Together` takes it; labels are not needed.

    Raises:
      ValueError: the model gives no classes; what `Together` refuses.
    """
    if compares(kept):
        raise ValueError(f"the model of {kept.run} gives no classes; compare inputs by --image, --text and --audio")
    spec, parts = _spec(kept, address), encoders_of(kept.model)
    found, _ = spec.examples(address, parts, kept.model, labelled=False)
    found, answer = found.select(*parts), kept.compiled()
    shape = spec.shape(parts, kept.model, [found])
    number = 0
    for batch in data.evaluation_batches(found, min(BATCH, len(found)), **shape):
        logits = np.asarray(answer(batch).logits)
        for row in logits[: len(found) - number]:
            yield number, prediction(kept.model, row)
            number += 1


def measured_table(kept: Kept, address: str) -> tuple[int, dict[str, float]]:
    """How many labelled examples of several modalities there are, and the model's loss and metrics on them.

    Args:
      kept, address: as for `predict_table`.

    Raises:
      ValueError: the model gives no classes, or a label that it doesn't have.
    """
    if compares(kept):
        raise ValueError(f"the model of {kept.run} gives no classes to measure; its report has its recall")
    spec, parts = _spec(kept, address), encoders_of(kept.model)
    found, _ = spec.examples(address, parts, kept.model)
    names = {"the data": found.select(*parts, "labels")}
    found = data.one_mapping(names, class_names(kept.model, 0), classes_of(kept.model))["the data"]
    found = check_targets(found, kept.model)
    shape = spec.shape(parts, kept.model, [found])
    return len(found), scores_of(kept, list(data.evaluation_batches(found, min(BATCH, len(found)), **shape)))


def _spec(kept: Kept, address: str) -> Together:
    return Together(address, length=kept.reads.get("length") or Together.length)


def compares(kept: Kept) -> bool:
    """Whether a model gives a representation that is compared, and no classes."""
    config = kept.model.config
    return isinstance(config, DualConfig) or getattr(config, "classes", 0) is None


def compare_parts(kept: Kept, parts: Mapping[str, Sequence[str | Path]]) -> dict[str, Any]:
    """The representation of one input, or how near one is to each of several of another kind.

    Args:
      kept: of `load_run`, whose model gives a representation of each modality.
      parts: by modality, paths or texts: one of one modality, and of another as many as one likes.

    Returns:
      ``{"embedding": [width]}`` of one input; else ``{"similarities": [others], "probabilities": [others]}``, cosines
      and the softmax of the model's logits over the others.

    Raises:
      ValueError: as `predict_parts`, or inputs that can't be compared so.
      FileNotFoundError: there is no such file.
    """
    known = _encoders(kept, parts)
    vectors = {name: _vectors(kept, name, known[name], what) for name, what in parts.items()}
    counts = {name: len(what) for name, what in parts.items()}
    if list(counts.values()) == [1]:
        (found,) = vectors.values()
        return {"embedding": [round(float(x), 6) for x in found[0]]}
    single = next((name for name in counts if counts[name] == 1), None)
    if single is None or len(counts) != 2:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(
            f"there are {told}; give one input of one kind, and of another kind those that it is compared with"
        )
    (other,) = (name for name in vectors if name != single)
    near = vectors[other] @ vectors[single][0]
    logits = _scale(kept) * near
    likely = np.exp(logits - logits.max())
    return {
        "similarities": [round(float(x), 6) for x in near],
        "probabilities": [round(float(x), 6) for x in likely / likely.sum()],
    }


def _scale(kept: Kept) -> float:
    held = kept.model.params.get("log_scale")
    return SCALE if held is None else float(jnp.exp(held))


def _vectors(kept: Kept, name: str, config: Any, what: Sequence[str | Path]) -> np.ndarray:
    fields = _read(kept, name, config, what)
    batch = fields if isinstance(kept.model.config, DualConfig) else {name: fields}
    found = np.asarray(kept.compiled()(batch).hidden, np.float64)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _encoders(kept: Kept, parts: Mapping[str, Any]) -> dict[str, Any]:
    """By modality the configurations of a model's encoders.

    Raises:
      ValueError: the model is of one kind of input or lacks a modality; no part.
    """
    config = kept.model.config
    known = {name: encoder.config for name, encoder in getattr(config, "encoders", ())}
    if isinstance(config, DualConfig):
        known = {"image": config.vision, "text": config.text}
    if not known:
        raise ValueError(f"the model of {kept.run} reads one kind of input; ft-jax predict RUN FILE|TEXT takes it")
    if not parts:
        raise ValueError(
            f"no input is given; the model of {kept.run} reads {', '.join(known)}, any of which may be missing"
        )
    lacks = [name for name in parts if name not in known]
    if lacks:
        raise ValueError(f"the model of {kept.run} has no modality {printable(lacks[0])}; it has {', '.join(known)}")
    return known


def _read(kept: Kept, name: str, config: Any, what: Sequence[str | Path]) -> dict[str, np.ndarray]:
    if hasattr(config, "image"):
        *size, channels = config.image
        return {"images": np.stack([_file(one, data.Image(name, tuple(size), channels)) for one in what])}
    if getattr(config, "mels", None):
        return {"audio": np.stack([_file(one, data.Audio(name, 16000, config.samples)) for one in what])}
    if kept.model.tokenizer is None or not hasattr(config, "vocabulary"):
        raise ValueError(f"{printable(name)} can't be given as a file or a text; use the model in Python")
    texts = data.Dataset({"text": [str(one) for one in what]})
    length = min(kept.reads.get("length") or config.positions, config.positions)
    tokens = data.tokenize(texts, kept.model.tokenizer, length=length, too_long="truncate")
    return data.collate([{"input_ids": ids} for ids in tokens.column("input_ids")], padding=kept.model.pad_token)


def _file(what: str | Path, part: Any) -> np.ndarray:
    path = Path(what)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give the path of an image or a wav file")
    with open(path, "rb") as file:
        return part.decode(file, str(path))
