"""Models out of checkpoints: safetensors folders and GGUF files."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from ft_jax import assets
from ft_jax.models.architectures import Tensor, architecture_of, flat, nested
from ft_jax.models.gguf_file import read_gguf
from ft_jax.models.model import Forward, Model, initial_parameters, shapes, with_classifier
from ft_jax.models.safetensors_file import read_folder
from ft_jax.models.stored import Stored
from ft_jax.models.tokenizers import tokenizer_of_folder, tokenizer_of_gguf

HEAD_NAMES = {
    "head/kernel": Tensor("classifier.weight", transposed=True),
    "head/bias": Tensor("classifier.bias"),
}
"""Where `save` puts a classifier; transformers' base models pass over these names."""


def load(
    address: str | os.PathLike,
    *,
    dtype: str | None = None,
    storage: str = "float32",
    strict: bool = True,
    tokenizer: bool = True,
    abstract: bool = False,
    key: jax.Array | None = None,
) -> Model:
    """A model with its weights and tokenizer.

    Args:
      address: a folder with config.json and safetensors, or a GGUF file: a path, ``hf://org/model`` or
        ``pkg://NAME==VERSION/member`` (see `ft_jax.assets`).
      dtype: compute type, such as ``"bfloat16"``; None for float32.
      storage: type of the parameters.
      strict: refuse missing and left-over tensors; otherwise pass over the latter and draw the former with `key`.
      tokenizer: whether to read the tokenizer.
      abstract: shapes in place of arrays, no tensor is read.
      key: draws missing parameters where `strict` is off.

    Raises:
      FileNotFoundError: where the file, config.json or a shard is not there.
      ValueError: on an unknown architecture, missing, left-over or misshapen tensors, a corrupt file.
    """
    path = Path(assets.resolve(os.fspath(address)))
    if path.is_dir() and not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{path} has neither config.json nor exactly one GGUF file; is it a model's folder?"
            )
        path = found[0]
    read = _read_checkpoint if path.is_dir() else _read_gguf
    model, table, prefix, unread, tensors = read(path, tokenizer)
    if dtype is not None:
        model = model.configure(dtype=dtype)
    if abstract:
        return model
    return _filled(model, _placed(table, tensors, prefix), unread, tensors, path, storage, strict, key)


def _read_checkpoint(folder, tokenizer):
    try:
        config_json = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON ({error})") from None
    if not isinstance(config_json, dict):
        raise ValueError(f"{folder / 'config.json'} holds a {type(config_json).__name__}; it must be an object")
    architecture, tensors = architecture_of(config_json.get("model_type")), read_folder(folder)
    try:
        config = architecture.read(config_json, set(tensors))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'config.json'} has a value of the wrong type ({error})") from None
    _check_layers(folder, config, tensors)
    table, head = architecture.tensors(config), config_json.get("ft_jax_head")
    generation = folder / "generation_config.json"
    extra = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    model = Model(
        config,
        shapes(config),
        Forward(config),
        tokenizer=tokenizer_of_folder(folder) if tokenizer else None,
        stop_tokens=_ids(extra.get("eos_token_id", config_json.get("eos_token_id"))),
        pad_token=(_ids(config_json.get("pad_token_id")) or (0,))[0],
    )
    if head is not None:
        model = with_classifier(model, head["classes"], None, head["pooling"])
        table = {path: tensor for path, tensor in table.items() if path != "head/kernel"} | HEAD_NAMES
    return model, table, architecture.prefix, architecture.unread, tensors


def _read_gguf(path, tokenizer):
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is one tensor file; give its folder, which has config.json too")
    file = read_gguf(path)
    architecture = architecture_of(file.metadata.get("general.architecture"))
    if architecture.read_gguf is None:
        raise ValueError(
            f"{path} is a GGUF of {file.metadata['general.architecture']!r}, which is read from safetensors only"
        )
    config = architecture.read_gguf(file.metadata, set(file.tensors))
    _check_layers(path, config, file.tensors)
    model = Model(
        config,
        shapes(config),
        Forward(config),
        tokenizer=tokenizer_of_gguf(file.metadata, path) if tokenizer else None,
        stop_tokens=_ids(file.metadata.get("tokenizer.ggml.eos_token_id")),
        pad_token=(_ids(file.metadata.get("tokenizer.ggml.padding_token_id")) or (0,))[0],
    )
    return model, architecture.gguf(config), "", architecture.unread, file.tensors


def _check_layers(path, config, tensors):
    """A number of layers that can't be is refused before a network of that size is outlined."""
    if config.layers > len(tensors):
        raise ValueError(f"{path} has {len(tensors)} tensors and its configuration claims {config.layers} layers")


def _ids(value) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _placed(table: Mapping[str, Tensor], tensors: Mapping[str, Stored], prefix: str) -> dict[str, tuple[Tensor, str]]:
    """Each parameter's tensor and its name in this file: with the prefix of a checkpoint with a head, or without."""
    return {
        path: (tensor, prefix + tensor.name if prefix + tensor.name in tensors else tensor.name)
        for path, tensor in table.items()
    }


def _filled(model, placed, unread, tensors, path, storage, strict, key):
    expected = flat(model.params)
    missing = [name for _, name in placed.values() if name not in tensors]
    used = {name for _, name in placed.values()}
    left = [name for name in tensors if name not in used and not name.endswith(unread)]
    if strict and (missing or left):
        raise ValueError(
            f"{path} doesn't hold the tensors of its configuration: missing {_some(missing)}, left over {_some(left)}; "
            "pass strict=False to go on without them"
        )
    if missing and key is None:
        raise ValueError(f"{path} lacks {_some(missing)}; pass key=jax.random.key(...) to draw them")
    for where, (tensor, name) in placed.items():
        if name in tensors and tensors[name].shape != tensor.stored_shape(expected[where].shape):
            raise ValueError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape} and the configuration says "
                f"{tensor.stored_shape(expected[where].shape)}; config and weights are of different models"
            )
    drawn = flat(initial_parameters(model.config, key)) if missing else {}
    filled = {}
    for where, (tensor, name) in placed.items():
        array = tensor.read(tensors[name].load()) if name in tensors else drawn[where]
        filled[where] = jnp.asarray(array, storage)
    return dataclasses.replace(model, params=nested(filled))


def _some(names, most: int = 5) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
