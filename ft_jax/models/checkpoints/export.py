"""Models into folders that transformers loads."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.grafts import ungrafted
from ft_jax.core.weights import fold_bias, is_weight, materialize, merge
from ft_jax.models import heads
from ft_jax.models.architectures import architecture_for, flat
from ft_jax.models.architectures.naming import Tensor, Writer, writers
from ft_jax.models.checkpoints.described import TYPES, config_of, files_of
from ft_jax.models.checkpoints.safetensors_file import shards_of, write_safetensors
from ft_jax.models.checkpoints.whole_folder import building, vacant
from ft_jax.models.model import Model
from ft_jax.models.networks.parts.stacking import STACKED, unstack_layers

INDEX = "model.safetensors.index.json"


def save(
    model: Model,
    params,
    folder,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> Path:
    """Writes config.json, the weights as safetensors and the tokenizer, adapters merged into the weights.

    Of a loaded model, config.json and the files beside it (of generation, of preprocessing) go out as they came in, but
    for what was changed since.

    `load` and transformers' ``AutoModel.from_pretrained`` read the folder. Weights that don't fit into one file are
    sharded, with an index. A head that transformers has for the architecture is saved under its names and its
    class in config.json, another beside the network as ``classifier.weight`` and ``classifier.bias``; what it is stands
    in config.json under ``ft_jax_head``. Tensors are merged and written one after
    another, and the folder appears whole or not at all.

    Args:
      model: gives configuration and tokenizer.
      params: the model's parameters, operators allowed.
      folder: where to.
      dtype: of the stored numbers, such as ``"bfloat16"``; None for the parameters' own.
      max_shard_bytes: of one file's tensors.
      overwrite: whether an existing folder may be replaced.

    Returns:
      The folder.

    Raises:
      FileExistsError: where the folder is there and `overwrite` is off.
      ValueError: where the configuration has no published format, parameters are missing or unknown, or a method's
        addition is no weight and can't be merged into one.

    Example:
      >>> import tempfile
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     folder = save(model, model.params, f"{parent}/tiny", max_shard_bytes=12_000)
      ...     [path.name for path in sorted(folder.glob("*.safetensors"))]
      ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    folder = vacant(folder, overwrite)
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; a file needs at least 1")
    _refuse_grafts(params)
    architecture = architecture_for(model.config)
    table = architecture.tensors(model.config)
    outline = flat(jax.eval_shape(lambda params: merge(unstack_layers(params)), params))
    head = heads.describe(model.apply, outline)
    if head is not None:
        table = with_head_names(architecture, table, head, model.config)
    if set(outline) != set(table):
        raise ValueError(
            f"parameters don't fit the configuration: missing {sorted(set(table) - set(outline))[:4]}, "
            f"unknown {sorted(set(outline) - set(table))[:4]}; pass the parameters of this model alone"
        )
    described = config_of(model, outline, set(writers(table)))
    called = next((name for name in TYPES if model.origin is not None and name in model.origin.configuration), TYPES[1])
    described[called] = str(jnp.dtype(dtype or next(iter(outline.values())).dtype))
    with building(folder) as unfinished:
        _write_weights(unfinished, table, params, outline, dtype, max_shard_bytes)
        _write_json(unfinished / "config.json", described)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(unfinished)
        for name, text in files_of(model).items():
            (unfinished / name).write_text(text, encoding="utf-8")
    return folder


def with_head_names(architecture, table: Mapping[str, Tensor], head: Mapping[str, Any], config) -> dict[str, Tensor]:
    """The tensors of a model with a head; beside one of transformers' own, the network's names have their prefix."""
    network = {path: tensor for path, tensor in table.items() if not path.startswith("head/")}
    if architecture.prefix and heads.class_of(head, config) is not None:
        prefixed = any(tensor.name.startswith(architecture.prefix) for tensor in network.values())
        prefix = "" if prefixed else architecture.prefix
        network = {path: dataclasses.replace(one, name=prefix + one.name) for path, one in network.items()}
    return network | heads.tensors(head, config)


def _refuse_grafts(params):
    _, grafts = ungrafted(params)
    for path, several in grafts.items():
        kinds = ", ".join(type(graft).__name__ for graft in several)
        raise ValueError(
            f"{path or 'the model'} has additions that are no weights ({kinds}) and can't be merged into a published "
            "format; save the run's checkpoint, or the adapter alone"
        )


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_weights(folder: Path, table: Mapping[str, Tensor], params, outline, dtype: str | None, most: int) -> None:
    made = writers(table)
    outlines = {
        name: (
            writer.shape(*(outline[path].shape for path in writer.paths)),
            jnp.dtype(dtype or outline[writer.paths[0]].dtype),
        )
        for name, writer in made.items()
    }
    sizes = {name: math.prod(shape) * number.itemsize for name, (shape, number) in outlines.items()}
    shards = shards_of(sizes, most)
    read = _Reader(params)

    def maker(name, writer: Writer):
        return lambda: writer.write(*read(writer.paths)).astype(outlines[name][1], copy=False)

    places = {}
    for index, names in enumerate(shards):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file)
        tensors = ((name, maker(name, made[name])) for name in names)
        write_safetensors(folder / file, {name: outlines[name] for name in names}, tensors)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})


class _Reader:
    """Merged parameters on the host, of which only those last asked for are kept."""

    def __init__(self, params):
        self.params, self.held = params, {}

    def __call__(self, paths):
        self.held = {path: self.held[path] if path in self.held else self._fetch(path) for path in paths}
        return list(self.held.values())

    def _fetch(self, path):
        node, siblings, layer = self.params, {}, None
        for name in path.split("/"):
            if name not in node and STACKED in node:
                name, layer = STACKED, int(name)
            node, siblings = node[name], node
        kernel = siblings.get("kernel") if path.endswith("/bias") else None
        if layer is not None:
            node, kernel = jax.tree.map(lambda leaf: leaf[layer], (node, kernel))
        if is_weight(kernel):
            node = fold_bias(kernel, node)
        return np.asarray(jax.device_get(materialize(node)))
