"""Models out of checkpoints: safetensors folders and GGUF files."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from ft_jax import assets
from ft_jax.assets.compiled import use_compilation_cache
from ft_jax.core.adapters import Targets
from ft_jax.models import heads
from ft_jax.models.architectures import Tensor, architecture_of, flat, nested
from ft_jax.models.checkpoints.copies import own_copies
from ft_jax.models.checkpoints.described import origin
from ft_jax.models.checkpoints.float8 import dequantised
from ft_jax.models.checkpoints.gguf_file import read_gguf
from ft_jax.models.checkpoints.placement import Sharding, kept, place, place_blocks, quantized, whole
from ft_jax.models.checkpoints.published import check_metadata, read_config, read_generation
from ft_jax.models.checkpoints.safetensors_file import read_folder
from ft_jax.models.checkpoints.stored import Stored
from ft_jax.models.checkpoints.tokenizers import tokenizer_of_folder, tokenizer_of_gguf
from ft_jax.models.model import Forward, Model, Origin, initial_parameters, shapes
from ft_jax.models.networks.parts.scanned import deep
from ft_jax.models.networks.parts.stacking import stack_each
from ft_jax.outside import one_line, printable, read_json

QUANTIZED = Targets(("*/kernel",), ("*head/*", "*embed*", "*router/*"))
"""The projections that `load` quantises."""

PROBLEMS = ("multi_label_classification", "regression")
"""What config.json may say of a head's outputs; anything else is one class an example."""

FORMATS = ("nf4", "int8", "keep")


def load(
    address: str | os.PathLike,
    *,
    dtype: str | None = None,
    storage: str | None = "float32",
    sharding: Sharding = whole,
    quantize: str | None = None,
    strict: bool = True,
    tokenizer: bool = True,
    abstract: bool = False,
    key: jax.Array | None = None,
    scan: bool | None = None,
) -> Model:
    """A model with its weights and tokenizer.

    Float8 tensors are read as the numbers that they stand for, with their scales of blocks, rows or tensors.

    Files are mapped, and tensors go one after another from them into their type, quantisation and sharding. So
    beside the parameters no more than one tensor is in memory, neither on the host nor on a device; with `scan`, on a
    device no more than one parameter of all layers.

    Args:
      address: a folder with config.json and safetensors, or a GGUF file: a path, ``hf://org/model`` or
        ``pkg://NAME==VERSION/member`` (see `ft_jax.assets`).
      dtype: compute type, such as ``"bfloat16"``; None for float32.
      storage: type of the parameters; None for the file's own.
      sharding: ``(path, shape) -> sharding`` of each parameter, with paths such as
        ``"model/layers/0/attention/query/kernel"``; None for the default device.
      quantize: ``"nf4"`` or ``"int8"`` for the projections in layers, as they are read (QLoRA of a model that would
        not fit whole); ``"keep"`` for those a GGUF file holds as Q8_0, Q4_0 or Q4_1, which then stay so.
      strict: refuse missing and left-over tensors and a tokenizer with more tokens than the model; otherwise pass
        over them and draw what is missing with `key`.
      tokenizer: whether to read the tokenizer.
      abstract: shapes in place of arrays, no tensor is read.
      key: draws missing parameters where `strict` is off.
      scan: whether the layers run in one scan, their parameters stacked as they are read (see `Model.configure`); by
        default where there are more than `ft_jax.models.networks.parts.scanned.UNROLLED` (and no blocks are kept), for
        unrolled layers are faster and take longer to compile.

    Raises:
      FileNotFoundError: where the file, config.json or a shard is not there.
      ValueError: on an unknown architecture or quantisation, missing, left-over or misshapen tensors, a corrupt file,
        layers that can't be stacked.

    Example:
      >>> import tempfile, jax
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     loaded = load(models.save(model, model.params, f"{folder}/tiny"), storage="bfloat16", quantize="nf4")
      >>> loaded.params["embeddings"]["tokens"].dtype.name, loaded.params["layers"]["0"]["mlp"]["up"]["kernel"].format
      ('bfloat16', 'nf4')
    """
    if quantize is not None and quantize not in FORMATS:
        raise ValueError(f"quantize is {printable(quantize)}; use None or one of {', '.join(map(repr, FORMATS))}")
    use_compilation_cache()
    path = Path(assets.resolve(os.fspath(address)))
    if path.is_dir() and not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{path} has neither config.json nor exactly one GGUF file; is it a model's folder?"
            )
        path = found[0]
    read = _read_checkpoint if path.is_dir() else _read_gguf
    model, table, prefix, unread, tensors = read(path, tokenizer, strict)
    model = dataclasses.replace(model, origin=dataclasses.replace(model.origin, address=_address(address)))
    if dtype is not None:
        model = model.configure(dtype=dtype)
    if strict:
        _check_vocabulary(path, model)
    # Blocks of a file may differ from layer to layer.
    scan = deep(model.config) and quantize != "keep" if scan is None else scan
    scanned = model.configure(scan=True) if scan else model
    if abstract:
        return scanned
    named = _named(table, tensors, prefix)
    outline = flat(model.params)
    drawn = _drawn(model, outline, named, unread, tensors, path, strict, key)

    def destination(where, shape):
        return sharding(f"model/{where}", shape)

    def parameter(where):
        tensor, names = named[where]
        if where in drawn:
            array = drawn[where].astype(storage or "float32")
            return jax.device_put(array, destination(where, array.shape))
        stored, shape = [tensors[name] for name in names], outline[where].shape
        return _read(where, tensor, stored, shape, storage, destination, quantize)

    filled = stack_each(named, parameter, destination) if scan else {where: parameter(where) for where in named}
    return dataclasses.replace(scanned, params=nested(filled), drawn=(*scanned.drawn, *sorted(drawn)))


def _read(where, tensor, stored, shape, storage, destination, quantize):
    if quantize == "keep" and QUANTIZED.fits(where) and kept(tensor, stored, where):
        return place_blocks(where, tensor, stored[0], destination)
    array = place(where, tensor, stored, shape, storage, destination)
    if quantize in ("nf4", "int8") and QUANTIZED.fits(where) and len(shape) == 2:
        return quantized(where, array, quantize, destination)
    return array


def _address(address) -> str:
    """An address that means the same from every folder."""
    address = os.fspath(address)
    return address if "://" in address else os.path.abspath(address)


def _read_checkpoint(folder, tokenizer, strict):
    file = folder / "config.json"
    config_json = read_json(file)
    seen = read_config(config_json, file)
    architecture = architecture_of(config_json.get("model_type"))
    tensors = dequantised(folder, read_folder(folder), config_json)
    config = _of(file, architecture.read, seen, set(tensors))
    _check_layers(folder, config, tensors)
    said = config
    config, tensors = own_copies(folder, architecture, config, tensors, strict)
    table, head = architecture.tensors(config), config_json.get("ft_jax_head")
    if head is None:
        shapes_ = {name: tensor.shape for name, tensor in tensors.items()}
        head = heads.published(config_json, shapes_, architecture.heads(config))
    generation = folder / "generation_config.json"
    extra = read_generation(read_json(generation), generation) if generation.is_file() else {}
    model = Model(
        config,
        _of(file, shapes, config),
        Forward(config),
        tokenizer=tokenizer_of_folder(folder) if tokenizer else None,
        stop_tokens=_ids(extra.get("eos_token_id", config_json.get("eos_token_id"))),
        pad_token=_pad(config_json.get("pad_token_id"), config),
    )
    if head is not None:
        model = heads.restore(model, head)
    outputs = getattr(config, "classes", None) if head is None else head["classes"]
    if outputs:
        names, problem = _names(config_json.get("id2label"), outputs), config_json.get("problem_type")
        model = dataclasses.replace(model, classes=names, problem_type=problem if problem in PROBLEMS else None)
    if head is not None:
        table = {path: tensor for path, tensor in table.items() if not path.startswith("head/")}
        table |= heads.tensors(head, config, set(tensors))
    as_said = dataclasses.replace(model, config=model.config if head is not None else said)
    model = dataclasses.replace(model, origin=origin(folder, config_json, as_said, flat(model.params)))
    return model, table, architecture.prefix, architecture.unread, tensors


def _of(file, read, *content):
    """What is read out of a file whose fields are each what they should be, and together may still be none."""
    try:
        return read(*content)
    except (TypeError, AttributeError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{file} has fields that don't go together ({one_line(error)}); get it again") from None


def _read_gguf(path, tokenizer, strict):
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is one tensor file; give its folder, which has config.json too")
    file = read_gguf(path)
    architecture = architecture_of(file.metadata.get("general.architecture"))
    if architecture.read_gguf is None:
        raise ValueError(
            f"{path} is a GGUF of {printable(file.metadata['general.architecture'])}, which is read from safetensors "
            "only"
        )
    check_metadata(file.metadata, path)
    config = _of(path, architecture.read_gguf, file.metadata, set(file.tensors))
    _check_layers(path, config, file.tensors)
    model = Model(
        config,
        _of(path, shapes, config),
        Forward(config),
        tokenizer=tokenizer_of_gguf(file.metadata, path) if tokenizer else None,
        stop_tokens=_ids(file.metadata.get("tokenizer.ggml.eos_token_id")),
        pad_token=_pad(file.metadata.get("tokenizer.ggml.padding_token_id"), config),
        origin=Origin(str(path)),
    )
    return model, architecture.gguf(config), "", architecture.unread, file.tensors


def _check_layers(path, config, tensors):
    """A number of layers that can't be is refused before a network of that size is outlined."""
    layers = _layers(config)
    if layers > len(tensors):
        raise ValueError(f"{path} has {len(tensors)} tensors and its configuration claims {layers} layers")


def _layers(config) -> int:
    parts = [value for value in vars(config).values() if dataclasses.is_dataclass(value)]
    numbers = [number for name, number in vars(config).items() if name.endswith("layers") and type(number) is int]
    return sum(map(_layers, parts), max(numbers, default=0))


def _check_vocabulary(path, model):
    """A tokenizer of another model, whose tokens the table lacks, is refused; tokens added to it are let be."""
    tokens, rows = getattr(model.tokenizer, "vocab_size", None), getattr(model.config, "vocabulary", None)
    if isinstance(tokens, int) and rows is not None and tokens > rows:
        raise ValueError(
            f"{path} has a tokenizer of {tokens} tokens and a table of {rows} rows; they are of different models, "
            "pass tokenizer=False to load the model alone"
        )


def _ids(value) -> tuple[int, ...]:
    """Token ids of a configuration, where -1 stands for none as null does."""
    several = value if isinstance(value, list) else [value]
    return tuple(one for one in several if one is not None and one >= 0)


def _pad(value, config) -> int:
    """The id that fills up: the configuration's where the model has a row for it, else 0, which masks hide as well."""
    rows = getattr(config, "vocabulary", None)
    return next((one for one in _ids(value) if rows is None or one < rows), 0)


def _names(id2label, outputs: int) -> tuple[str, ...]:
    """The names of a head's outputs; those that transformers makes up are none."""
    names = {int(i): str(name) for i, name in (id2label or {}).items()}
    if set(names) != set(range(outputs)) or all(name == f"LABEL_{i}" for i, name in names.items()):
        return ()
    return tuple(names[i] for i in range(outputs))


def _named(table: Mapping[str, Tensor], tensors: Mapping[str, Stored], prefix: str):
    """Each parameter's tensor and its names in this file: with the prefix of a checkpoint with a head, or without."""
    return {
        where: (tensor, [prefix + name if prefix + name in tensors else name for name in tensor.names])
        for where, tensor in table.items()
    }


def _drawn(model, outline, named, unread, tensors, path, strict, key):
    """Parameters for what is missing, once it is clear that the file can be read; nothing is read before."""
    used = {name for _, names in named.values() for name in names}
    missing = [name for name in dict.fromkeys(n for _, names in named.values() for n in names) if name not in tensors]
    left = [name for name in tensors if name not in used and not name.endswith(unread)]
    if strict and (missing or left):
        raise ValueError(
            f"{path} doesn't hold the tensors of its configuration: missing {_some(missing)}, left over {_some(left)}; "
            "pass strict=False to go on without them"
        )
    if missing and key is None:
        raise ValueError(f"{path} lacks {_some(missing)}; pass key=jax.random.key(...) to draw them")
    for where, (tensor, names) in named.items():
        expected = tensor.stored_shape(outline[where].shape)
        for name in names:
            if name in tensors and tensors[name].shape != expected:
                raise ValueError(
                    f"{path}: tensor {printable(name)} has shape {tensors[name].shape} and the configuration says "
                    f"{expected}; config and weights are of different models"
                )
    if not missing:
        return {}
    drawn = flat(initial_parameters(model.config, key))
    return {where: drawn[where] for where, (_, names) in named.items() if not all(name in tensors for name in names)}


def _some(names, most: int = 5) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
