"""A run's model for other libraries; each export is checked before it is written: does its loader compute the same?"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import models
from ft_jax.core import Outputs
from ft_jax.core.weights import merge
from ft_jax.models import heads
from ft_jax.models.architectures import architecture_for, flat
from ft_jax.models.checkpoints.safetensors_file import write_safetensors
from ft_jax.models.checkpoints.whole_folder import building, vacant
from ft_jax.models.model import Model
from ft_jax.outside import printable
from ft_jax.training.serving.kept import Kept

SENTENCE = "sentence-transformers"
"""The reader of an encoder with any pooling and a linear layer after it."""

POOLERS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
"""What sentence-transformers calls a pooling."""

TOLERANCE = 2e-5
"""Largest difference, relative to the largest output, of an exported model read again."""


class NotExpressible(ValueError):
    """No class of the library that would load the export computes the model's function."""


def read_by(model: Model) -> str:
    """The class of transformers, or the library, whose function is the model's.

    Raises:
      NotExpressible: there is none; the sentence says what would be.

    Example:
      >>> read_by(models.tiny_decoder(jax.random.key(0)))
      'LlamaForCausalLM'
    """
    kind, pooling = model.apply.kind, model.apply.pooling
    architecture = architecture_for(model.config)
    written = architecture.write(model.config)["architectures"][0]
    if kind is None:
        return written
    published = heads.class_of(heads.describe(model.apply, flat(model.params)), model.config)
    if published is not None:
        return published.class_name
    linear = hasattr(model.config, "vocabulary") and model.apply.between is None
    if kind in ("classification", "regression", "embedding") and linear and pooling in POOLERS:
        return SENTENCE
    raise NotExpressible(
        f"no class of transformers computes a head {printable(kind)} with pooling {printable(pooling)} over {written}; "
        f"{_remedy(model.config, kind)}"
    )


def _remedy(config: Any, kind: str) -> str:
    wanted = "classification" if kind == "regression" else kind
    known = [head.class_name for head in architecture_for(config).heads(config) if head.kind == wanted]
    if known:
        return f"train with model.pooling={heads.PUBLISHED!r} for {known[0]}"
    return "train with model.pooling='mean', 'cls' or 'last' for a sentence-transformers folder"


def export_merged(kept: Kept, folder: str | os.PathLike, overwrite: bool = False) -> tuple[Path, str]:
    """Writes the whole model, adapters merged, for the library that computes the same function.

    A head that transformers has with the same pooling becomes its class; an encoder with another pooling becomes a
    sentence-transformers folder, whose ``encode`` gives the logits. What was written is read again and compared.

    Args:
      kept: of `load_run`.
      folder: where to.
      overwrite: whether an existing folder may be replaced.

    Returns:
      The folder, and what loads it.

    Raises:
      FileExistsError: the folder is there.
      ValueError: no library computes the function; an addition can't be merged; what was written answers differently.
    """
    folder, model = vacant(folder, overwrite), kept.alone("an export")
    reader = read_by(model)
    with building(folder) as unfinished:
        if reader == SENTENCE:
            check_same(model, _sentence_folder(kept, unfinished))
        else:
            models.save(model, model.params, unfinished / "whole")
            described = json.loads((unfinished / "whole" / "config.json").read_text(encoding="utf-8"))
            described["architectures"] = [reader]
            (unfinished / "whole" / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            check_same(model, models.load(unfinished / "whole", tokenizer=False))
            for file in (unfinished / "whole").iterdir():
                file.rename(unfinished / file.name)
            (unfinished / "whole").rmdir()
    return folder, reader


def export_adapter(kept: Kept, folder: str | os.PathLike, overwrite: bool = False) -> tuple[Path, str]:
    """Writes the adapter, and the head that was trained beside it, as peft's two files with the tokenizer.

    Args:
      kept, folder, overwrite: as in `export_merged`.

    Returns:
      The folder, and the class of transformers that peft loads the base with.

    Raises:
      FileExistsError: the folder is there.
      ValueError: there is no adapter that peft has; the base class computes another function; what was written
        answers differently.
    """
    folder, model = vacant(folder, overwrite), kept.alone("an export")
    reader = read_by(model)
    if reader == SENTENCE:
        raise NotExpressible(
            f"peft would load the adapter over a class of transformers that pools otherwise than "
            f"{printable(model.apply.pooling)} and answers differently; "
            f"{_remedy(model.config, model.apply.kind)}, or export --merged, which "
            "writes a sentence-transformers folder"
        )
    original = kept.original()
    with building(folder) as unfinished:
        models.save_adapter(original, model.params, unfinished / "adapter")
        one_by_one = original.configure(scan=False) if getattr(model.config, "scan", False) else original
        _, again = models.load_adapter(unfinished / "adapter", one_by_one)
        check_same(model, dataclasses.replace(one_by_one, params=again))
        file = unfinished / "adapter" / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = address_for_peft(kept.base["address"])
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in (unfinished / "adapter").iterdir():
            path.rename(unfinished / path.name)
        (unfinished / "adapter").rmdir()
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(unfinished)
    return folder, reader


def address_for_peft(address: str) -> str:
    """What peft can load the base by: the hub's name of a model, or a path on this computer.

    Example:
      >>> address_for_peft("hf://org/model")
      'org/model'
    """
    if address.startswith("hf://"):
        return address.removeprefix("hf://")
    from ft_jax import assets

    return os.fspath(assets.resolve(address))


def check_same(model: Model, again: Model) -> None:
    """Raises ValueError where a model read back answers otherwise than the one written, on a batch of random tokens."""
    batch = probe(model)
    one, other = (_answers(each, batch) for each in (model, again))
    if not agree(one, other):
        apart = np.abs(one - other).max() / _scale(one) if one.shape == other.shape else None
        gap = f"{other.shape} and not {one.shape}" if apart is None else f"by {apart:.1e}"
        raise NotExpressible(
            f"the export read again answers differently ({gap}), so nothing was written; please report the run's "
            "composition"
        )


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether answers differ by no more than `TOLERANCE` of the largest of the first."""
    return one.shape == other.shape and bool(np.abs(one - other).max() <= TOLERANCE * _scale(one))


def _scale(answers: np.ndarray) -> float:
    return max(float(np.abs(answers).max()), 1e-6)


def told(outputs: Outputs) -> np.ndarray:
    """What a model answers: logits, or vectors where it has no head; float32."""
    return np.asarray(outputs.hidden if outputs.unembedding is None else outputs.logits, np.float32)


def _answers(model: Model, batch) -> np.ndarray:
    model = model.configure(dtype="float32") if hasattr(model.config, "dtype") else model
    return told(jax.jit(model.apply)(model.params, batch))


def probe(model: Model, rows: int = 2, time: int = 6) -> dict[str, np.ndarray]:
    """A batch of random examples that the model reads, the last with padding."""
    random, config = np.random.default_rng(0), model.config
    if hasattr(config, "image"):
        return {"images": random.random((rows, *config.image), np.float32)}
    ids = random.integers(min(3, config.vocabulary - 1), config.vocabulary, (rows, time)).astype(np.int32)
    mask = np.ones((rows, time), np.int32)
    mask[-1, time - 2 :] = 0
    return {"input_ids": np.where(mask > 0, ids, model.pad_token).astype(np.int32), "attention_mask": mask}


def _sentence_folder(kept: Kept, folder: Path) -> Model:
    """Writes the modules of sentence-transformers; the model as they compute it."""
    model, params = kept.model, merge(kept.model.params)
    head = params.get("head")
    bare = models.with_head(model, "language_model", None) if model.apply.kind else model
    network = {name: child for name, child in params.items() if name != "head"}
    models.save(dataclasses.replace(bare, params=network), network, folder / "network")
    for path in (folder / "network").iterdir():
        path.rename(folder / path.name)
    (folder / "network").rmdir()
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    pooling = {"word_embedding_dimension": model.config.width} | {
        field: name == model.apply.pooling for name, field in POOLERS.items()
    }
    _write(folder / "1_Pooling" / "config.json", pooling)
    if model.apply.kind == "embedding":
        modules.append(("2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir()
    if head is not None:
        modules.append(("2_Dense", "Dense"))
        kernel, bias = np.asarray(head["kernel"], np.float32), head.get("bias")
        dense = {
            "in_features": kernel.shape[0],
            "out_features": kernel.shape[1],
            "bias": bias is not None,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        _write(folder / "2_Dense" / "config.json", dense)
        tensors = {"linear.weight": kernel.T} | ({} if bias is None else {"linear.bias": np.asarray(bias, np.float32)})
        outlines = {name: (array.shape, array.dtype) for name, array in tensors.items()}
        rows = ((name, lambda array=array: array) for name, array in tensors.items())
        write_safetensors(folder / "2_Dense" / "model.safetensors", outlines, rows)
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    length = min(kept.reads.get("length") or model.config.positions, model.config.positions)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    labels = {str(index): name for index, name in enumerate(getattr(model, "classes", ()))}
    if labels:
        _write(folder / "id2label.json", labels)
    again = models.load(folder, tokenizer=False)
    apply = dataclasses.replace(again.apply, pooling=model.apply.pooling, kind=model.apply.kind)
    return dataclasses.replace(again, params=again.params | ({} if head is None else {"head": head}), apply=apply)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
