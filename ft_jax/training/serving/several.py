"""A kept model of several modalities at work on one example, of which any may be missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.outside import printable
from ft_jax.training.serving.kept import Kept
from ft_jax.training.serving.use import Prediction, prediction


def predict_parts(kept: Kept, parts: Mapping[str, str | Path]) -> Prediction:
    """The classes of one example out of its files and texts.

    Args:
      kept: of `load_run`, whose model is one of `ft_jax.multimodal.model`.
      parts: by modality, a path of an image or a wav file, or a text.

    Raises:
      ValueError: the model is of one kind of input, has no classes, or lacks a modality; a broken file; no part.
      FileNotFoundError: there is no such file.
    """
    config = kept.model.config
    known = dict(getattr(config, "encoders", ()))
    if not known:
        raise ValueError(f"the model of {kept.run} reads one kind of input; ft-jax predict RUN FILE|TEXT takes it")
    if config.classes is None:
        raise ValueError(f"the model of {kept.run} gives no classes, only a representation; train it with a head")
    if not parts:
        raise ValueError(
            f"no input is given; the model of {kept.run} reads {', '.join(known)}, any of which may be missing"
        )
    lacks = [name for name in parts if name not in known]
    if lacks:
        raise ValueError(f"the model of {kept.run} has no modality {printable(lacks[0])}; it has {', '.join(known)}")
    batch = {name: _read(kept, name, known[name].config, what) for name, what in parts.items()}
    return prediction(kept.model, np.asarray(kept.compiled()(batch).logits)[0])


def _read(kept: Kept, name: str, config: Any, what: str | Path) -> dict[str, np.ndarray]:
    if hasattr(config, "image"):
        *size, channels = config.image
        return {"images": _file(what, data.Image(name, tuple(size), channels))[None]}
    if getattr(config, "mels", None):
        return {"audio": _file(what, data.Audio(name, 16000, config.samples))[None]}
    if kept.model.tokenizer is None or not hasattr(config, "vocabulary"):
        raise ValueError(f"{printable(name)} can't be given as a file or a text; use the model in Python")
    one = data.Dataset({"text": [str(what)]})
    tokens = data.tokenize(one, kept.model.tokenizer, length=config.positions, too_long="truncate")
    return data.collate([{"input_ids": tokens[0]["input_ids"]}])


def _file(what: str | Path, part: Any) -> np.ndarray:
    path = Path(what)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give the path of an image or a wav file")
    with open(path, "rb") as file:
        return part.decode(file, str(path))
