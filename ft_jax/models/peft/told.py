"""What an adapter's file tells of the model under it: where it is, what it is used for, and tables that grew."""

import os
from typing import Any

import jax

from ft_jax import assets
from ft_jax.core.params import Params
from ft_jax.models import heads
from ft_jax.models.architectures import architecture_for, flat
from ft_jax.models.model import Model
from ft_jax.models.peft.formats import PeftFormat
from ft_jax.models.peft.holders import Holders
from ft_jax.models.peft.modules import TABLES, Modules


def use_of(model: Model, modules: Modules, whole) -> dict[str, Any]:
    """What peft is told a model is used for, and the class it loads for that.

    Peft's own classes for classifiers want the head in the file; where it did not learn, the plain class does.
    """
    head = heads.describe(model.apply, flat(model.params))
    if modules.task is not None and (head is None or "head/kernel" in whole):
        return {"task_type": modules.task}
    published = None if head is None else heads.class_of(head, model.config)
    if head is not None and published is None:
        return {"task_type": modules.task}
    name = architecture_for(model.config).write(model.config)["architectures"][0]
    loads = name if published is None else published.class_name
    return {"task_type": None, "auto_mapping": {"base_model_class": loads, "parent_library": "transformers"}}


def head_of(model: Model, params: Params, modules: Modules, kind: PeftFormat) -> dict[str, jax.Array]:
    """The leaves of a model's head, learned or not: virtual tokens are added in peft's classes for a task alone.

    Those of classifiers want the head in the file; under the plain class peft would leave the tokens out in silence.

    Raises:
      ValueError: a model that peft has no task for, or whose head reads virtual tokens there.
    """
    if modules.task is None:
        raise ValueError(
            f"peft adds the virtual tokens of {kind.peft_type} in its classes for a task, and has none for "
            f"{type(model.config).__name__.removesuffix('Config')} models; save the run's checkpoint"
        )
    if model.apply.kind is None:
        return {}
    check_read(model, modules, kind)
    leaves = flat(params)
    return {path: leaves[path] for path in modules.tensors if path.startswith("head/")}


def check_read(model: Model, modules: Modules, kind: PeftFormat) -> None:
    """Raises ValueError where peft's classifier reads virtual tokens themselves, which count nothing here."""
    read = {"cls": "the first of them", "pooler": "the first of them", "mean": "their mean with the text's"}
    pooled = read.get(model.apply.pooling)
    if kind.virtual == "embeddings" and modules.task == "SEQ_CLS" and pooled is not None:
        raise ValueError(
            f"{kind.peft_type} puts virtual tokens before the text, of which peft's classifier reads {pooled} and this "
            "library's the text alone; use prefix tuning, or save the run's checkpoint"
        )


def heads_of(model: Model) -> dict[str, int]:
    """How many heads keys and values have, which peft asks for under names that not every configuration has."""
    return {"num_attention_heads": getattr(model.config, "key_value_heads", model.config.heads)}


def address_of(model: Model) -> dict[str, Any]:
    """Where peft finds the base: the hub's name of a model, or a path on this computer; None for one that was made."""
    address = None if model.origin is None else model.origin.address
    if address is None:
        return {"base_model_name_or_path": None}
    if address.startswith("hf://"):
        name, _, revision = address.removeprefix("hf://").partition("@")
        return {"base_model_name_or_path": name, "revision": revision or None}
    return {"base_model_name_or_path": os.fspath(assets.resolve(address))}


def grown_tables(model: Model, params: Params, modules: Modules, holders: Holders) -> dict[str, jax.Array]:
    """The tables of a model with another number of tokens than the checkpoint it came from, which peft keeps whole."""
    before = None if model.origin is None else model.origin.described.get("vocab_size")
    if before is None or before == getattr(model.config, "vocabulary", before):
        return {}
    leaves = flat(params)
    tables = (*TABLES, "head/kernel") if model.apply.kind is None else TABLES
    plain = [path for path in tables if path in modules.tensors and path not in holders]
    return {path: leaves[path] for path in plain if isinstance(leaves.get(path), jax.Array)}
