"""What config.json says of a model, and what of the files that it came in goes out with it again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_jax.models import heads
from ft_jax.models.architectures import architecture_for
from ft_jax.models.model import Model, Origin
from ft_jax.models.networks.decoder_config import DecoderConfig

KEPT = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
"""Files beside the weights and the tokenizer that go out as they came in."""

TYPES = ("dtype", "torch_dtype")
"""What config.json calls the type of the stored numbers, in transformers 5 and before."""

OURS = ("architectures", "ft_jax_head")
STALE = ("quantization_config", "auto_map", "transformers_weights")
"""Fields about the tensors or the code that a checkpoint came with, which a saved folder does not have."""


def describe(model: Model, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model that came from nowhere, but for the type of its numbers.

    Args:
      model: gives configuration, head, names of classes and special tokens.
      leaves: its parameters by path, or their shapes.

    Raises:
      ValueError: where the configuration has no published format.
    """
    described = architecture_for(model.config).write(model.config)
    described = {name: value for name, value in described.items() if name not in TYPES}
    head = heads.describe(model.apply, leaves)
    if head is not None:
        described["ft_jax_head"] = head
        published = heads.class_of(head, model.config)
        if published is not None:
            described |= {"architectures": [published.class_name], **published.fields}
        described["id2label"] = {str(i): f"LABEL_{i}" for i in range(head["classes"])}
    problem = "regression" if model.apply.kind == "regression" else model.problem_type
    if problem is not None:
        described["problem_type"] = problem
    if model.classes:
        names = dict(described.get("id2label") or {}) | {str(i): name for i, name in enumerate(model.classes)}
        described |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    if model.stop_tokens:
        described["eos_token_id"] = list(model.stop_tokens)
    described["pad_token_id"] = model.pad_token
    return described


def origin(folder: Path, config_json: Mapping[str, Any], model: Model, leaves: Mapping[str, Any]) -> Origin:
    """What a checkpoint's folder said that the parameters do not say.

    Args:
      folder: where it is.
      config_json: its config.json.
      model: as it was read.
      leaves: the parameters' shapes by path.
    """
    files = {name: (folder / name).read_text(encoding="utf-8") for name in KEPT if (folder / name).is_file()}
    return Origin(str(folder), dict(config_json), describe(model, leaves), files)


def config_of(model: Model, leaves: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The config.json to write: that which the model came with, in what was not changed since.

    Args:
      model, leaves: as in `describe`.
      names: of the tensors that are written, by which a configuration is read.
    """
    now = describe(model, leaves)
    if model.origin is None or not model.origin.configuration:
        return _special_tokens(model.tokenizer) | now
    came = {name: value for name, value in model.origin.configuration.items() if name not in (*STALE, *OURS, *TYPES)}
    carried = changed(came, model.origin.described, now) | {name: now[name] for name in OURS if name in now}
    if now == model.origin.described:
        return carried
    # A field of the old configuration may mean the same as a changed one under another name.
    read = architecture_for(model.config).read
    return carried if read(carried, names) == read(now, names) else came | now


def changed(came: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """`came` with what is different in `now` from `before`.

    Example:
      >>> changed({"a": 1, "b": None, "c": "kept"}, {"a": 1, "b": 0, "d": 2}, {"a": 1, "b": 3})
      {'a': 1, 'b': 3, 'c': 'kept'}
    """
    made = {name: value for name, value in came.items() if name in now or name not in before}
    for name, value in now.items():
        old = before.get(name)
        if name in before and old == value:
            continue
        nested = all(isinstance(each, Mapping) for each in (old, value, came.get(name)))
        made[name] = changed(came[name], old, value) if nested else value
    return made


def files_of(model: Model) -> dict[str, str]:
    """The further files to write beside the weights, by name."""
    ends = {"eos_token_id": list(model.stop_tokens), "pad_token_id": model.pad_token}
    decodes, name = isinstance(model.config, DecoderConfig), "generation_config.json"
    if model.origin is None or not model.origin.configuration:
        # Beside an encoder, transformers takes more from there than is known here, and makes it from config.json else.
        return {name: _text(ends)} if decodes and model.stop_tokens else {}
    files, before = dict(model.origin.files), model.origin.described
    moved = {field: value for field, value in ends.items() if value != before.get(field) and value != []}
    if moved and (decodes or name in files):
        files[name] = _text(json.loads(files.get(name, "{}")) | moved)
    return files


def _special_tokens(tokenizer) -> dict[str, int]:
    """The ids of special tokens that a tokenizer knows and a model here does not keep."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "cls", "sep")}
    return {name: value for name, value in ids.items() if isinstance(value, int)}


def _text(content) -> str:
    return json.dumps(content, indent=2) + "\n"
