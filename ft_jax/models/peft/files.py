"""Adapters in the files of peft: ``adapter_config.json`` and ``adapter_model.safetensors``, read and written.

Each family registers the kinds it has (`register_format`); what is the same for all kinds is here: names of modules,
whole leaves that were trained beside the adapter, and the checks that a file fits its base.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

from ft_jax import assets
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED, Params, matches, paths
from ft_jax.core.step import make_step, parameters
from ft_jax.core.weights import Weight
from ft_jax.models.architectures import flat, nested
from ft_jax.models.checkpoints.safetensors_file import read_safetensors
from ft_jax.models.checkpoints.whole_folder import building, vacant
from ft_jax.models.model import Model
from ft_jax.models.networks.parts.stacking import unstack_layers
from ft_jax.models.peft.experts import of_file, with_experts
from ft_jax.models.peft.formats import PeftFormat, Saved, beside_a_lora, formats, kind_in, read_config
from ft_jax.models.peft.fused import apart, joined
from ft_jax.models.peft.holders import Holders, held, put
from ft_jax.models.peft.modules import Modules, modules_of
from ft_jax.models.peft.tied import read_once, written_twice
from ft_jax.models.peft.tokens import KIND, tokens_apart, tokens_beside
from ft_jax.models.peft.told import address_of, check_read, grown_tables, head_of, heads_of, use_of
from ft_jax.outside import one_line, printable

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def load_adapter(folder: str | os.PathLike, model: Model, *, name: str | None = None) -> tuple[Method, Params]:
    """The adapter in a folder that peft or `save_adapter` wrote.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors: a path, ``hf://org/adapter`` or
        ``pkg://NAME==VERSION/member``.
      model: the base it was trained on, with its parameters.
      name: the method's; that of its kind where None.

    Returns:
      The method, whose surgery puts the adapter's weights (and whole leaves saved with it, which then learn) in, so
      that training goes on from them; and the model's parameters with the adapter as the model sees them.

    Raises:
      FileNotFoundError: where one of the two files is not there.
      ValueError: layers in one scan, an unknown kind, a field whose value is not implemented, tensors that are
        missing, left over or of another base; the sentence names them.
    """
    folder = Path(assets.resolve(os.fspath(folder)))
    for file in (CONFIG, TENSORS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}; is it an adapter's folder?")
    if any(STACKED in f"/{path}" for path in paths(model.params)):
        raise ValueError(
            f"{folder} speaks of layers one by one and this model runs them in one scan; load it for "
            "model.configure(scan=False)"
        )
    config, kind = read_config(folder / CONFIG)
    stored = {key: tensor.load() for key, tensor in read_safetensors(folder / TENSORS).items()}
    try:
        modules = modules_of(model, stored, kind.prefix)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    if config.get("task_type") == modules.task:
        check_read(model, modules, kind)
    modules = of_file(modules, config, model, folder / CONFIG)
    stored = read_once(stored, config, modules, model, folder)
    stored, own, told = tokens_apart(stored, config, modules, folder)
    whole = {key: path for key in stored if (path := modules.leaf(key, kind.wrapper)) is not None}
    saved = Saved(config, {key: x for key, x in stored.items() if key not in whole}, modules, model)
    name = name or kind.name
    parts = [(kind, saved, _method(kind, saved, name, folder))]
    if own:
        second, beside = formats()[KIND], Saved(told, own, modules, model)
        parts.append((second, beside, _method(second, beside, second.name, folder)))
    plain = parts[0][2]
    learned = {f"model/{path}" for path in whole.values()}

    def surgery(params, key):
        changed = params
        for kind_, saved_, method_ in parts:
            changed = method_.surgery(changed, key) if method_.surgery else changed
            holders = unpack_into(kind_, saved_, held(changed["model"], method_.name), folder)
            changed = {**changed, "model": put(changed["model"], holders, method_.name)}
        leaves = flat(changed["model"])
        for key_, path in whole.items():
            leaves[path] = _leaf(leaves[path], modules.tensors[path].read(stored[key_]), key_, folder)
        return {**changed, "model": nested(leaves)}

    def trainable(path, leaf):
        return path in learned or any(method_.trainable(path, leaf) for _, _, method_ in parts)

    method = dataclasses.replace(plain, surgery=surgery, trainable=trainable)
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(model.params, jax.random.key(0))
    return method, parameters(state, method)["model"]


def save_adapter(
    model: Model, params: Params, folder: str | os.PathLike, *, owner: str | None = None, overwrite: bool = False
) -> Path:
    """Writes an adapter as peft's two files, which ``peft.PeftModel.from_pretrained`` and `load_adapter` read.

    Leaves of the model that differ from ``model.params``, such as a head trained beside the adapter, are saved with it;
    where there is no adapter but the norms differ, they are peft's ``LN_TUNING``. A base that the adapter's method
    changed (PiSSA, OLoRA) is made up for: the file is a LoRA of the base as it was. The folder appears whole or not at
    all.

    Args:
      model: the base, with the parameters that training started from.
      params: the model's parameters with the adapter, ``parameters(state, method)["model"]``.
      folder: where to.
      owner: the name of the method whose adapter it is, needed where there are several.
      overwrite: whether an existing folder may be replaced.

    Returns:
      The folder.

    Raises:
      FileExistsError: where the folder is there and `overwrite` is off.
      ValueError: where there is no adapter, or several and no `owner`, a kind that peft lacks, a weight without a
        module of its own in the published checkpoint, or a base that was trained as well.
    """
    folder = vacant(folder, overwrite)
    params, original = unstack_layers(params), unstack_layers(model.params)
    owner, kind = kind_in(params, owner)
    modules = modules_of(model, (), kind.prefix)
    holders = held(params, owner) if owner else {}
    modules = with_experts(modules, holders, model) if kind.peft_type == "LORA" else modules
    tokens = held(params, beside) if (beside := beside_a_lora(params, kind)) else {}
    modules.check({**holders, **tokens})
    whole = modules.changed(original, params, holders, kind.leaves)
    own = {path for path in whole if matches(path, kind.leaves)}
    if owner is None:
        _check_leaves(kind, own, whole)
    _check_modules(kind, holders, modules)
    before = flat(original)
    if kind.virtual:
        whole |= head_of(model, params, modules, kind)
    whole |= grown_tables(model, params, modules, {**holders, **tokens})
    holders = {place: _onto(kind, place, holder, before) for place, holder in holders.items()}
    holders, modules, twice = written_twice(holders, whole, modules, kind.tied)
    packed = joined(holders, modules, kind.fusing, kind.peft_type)
    written, left = kind.lean(packed, modules)
    tensors = dict(kind.pack(written, modules))
    tensors |= {
        modules.stored(path, holders, kind.wrapper if path in own else None): modules.tensors[path].write(
            np.asarray(leaf)
        )
        for path, leaf in whole.items()
    }
    tensors |= {name: np.asarray(leaf) for name, leaf in twice.items()}
    inside, told = tokens_beside(tokens, formats()[KIND].pack(tokens, modules), modules) if tokens else ({}, {})
    tensors |= inside
    trained = modules.trained(whole.keys() - own, holders, kind.peft_type)
    if kind.peft_type == KIND:
        beside = trained.pop("modules_to_save")
        if beside:
            raise ValueError(
                f"{beside[0]} was trained as well, and peft's {KIND} keeps tokens alone; compose with LoRA"
            )
    if twice:
        trained["modules_to_save"] = sorted([*trained["modules_to_save"], modules.copied.rpartition(".")[0]])
    config = {
        "peft_type": kind.peft_type,
        **use_of(model, modules, whole),
        **address_of(model),
        "inference_mode": True,
        **kind.describe(packed, modules),
        **(heads_of(model) if kind.virtual else {}),
        **left,
        **told,
        **({"fan_in_fan_out": True} if any(modules.turned(place) for place in holders) else {}),
        **({"target_modules": modules.around(own, kind.leaves)} if own else {}),
        **trained,
    }
    write_whole(folder, config, {key: np.asarray(jax.device_get(x)) for key, x in tensors.items()})
    return folder


def _check_modules(kind: PeftFormat, holders: Holders, modules: Modules) -> None:
    for place, holder in holders.items():
        if place.endswith("/router/kernel") and type(holder) not in kind.routers:
            raise ValueError(
                f"{place} is a mixture's router, which is no linear layer in transformers, and what {kind.name} puts "
                f"there ({type(holder).__name__}) peft has for those alone; leave it out of targets, or use LoRA"
            )
    turned = [place for place in holders if modules.turned(place)]
    if turned and not kind.turned:
        raise ValueError(
            f"{turned[0]} is stored as [inputs, outputs] in the checkpoint, and peft's {kind.peft_type} is not "
            "for such modules; use LoRA, DoRA, VeRA, IA3 or FourierFT"
        )


def write_whole(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes both files, whole or not at all."""
    contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    with building(folder) as unfinished:
        save_file(contiguous, unfinished / TENSORS, metadata={"format": "pt"})
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def unpack_into(kind: PeftFormat, saved: Saved, holders: Holders, folder: Path) -> Holders:
    """`holders` with the tensors of a file, which must be exactly theirs.

    Raises:
      ValueError: names what is missing, left over or of another shape.
    """

    def whole(held):
        return joined(held, saved.modules, kind.fusing, kind.peft_type, alike=True)

    wanted = jax.eval_shape(lambda held: kind.pack(whole(held), saved.modules), holders)
    missing, left = sorted(set(wanted) - set(saved.tensors)), sorted(set(saved.tensors) - set(wanted) - set(kind.taken))
    if missing or left:
        raise ValueError(
            f"{folder} is not an adapter of this base: missing {_some(missing)}, left over {_some(left)}; load it "
            "for the model it was trained on"
        )
    for key, outline in wanted.items():
        if saved.tensors[key].shape != outline.shape:
            raise ValueError(
                f"{folder}: tensor {printable(key)} has shape {saved.tensors[key].shape} and this base asks for "
                f"{outline.shape}; the adapter is of another model"
            )
    filled = kind.unpack(saved.tensors, whole(holders), saved.modules)
    return apart(filled, holders, saved.modules, kind.fusing)


def _onto(kind, place, holder, original):
    if not isinstance(holder, Weight):
        return holder
    stored = holder
    while isinstance(stored, Weight) and hasattr(stored, "base"):
        stored = stored.base
    if isinstance(stored, Weight) or jnp.array_equal(stored, original[place]):
        return holder
    if kind.onto is None:
        raise ValueError(
            f"the base under {place} was trained as well, and peft's {kind.peft_type} keeps adapters alone; merge it "
            "and save the whole model"
        )
    return kind.onto(holder, original[place])


def _check_leaves(kind, own, whole) -> None:
    if not own:
        raise ValueError(
            "parameters hold not exactly one adapter (they have none), and their norms are the base's; pass the "
            "parameters as the model sees them"
        )
    other = [path for path in whole if path not in own and not path.startswith("head/")]
    if other:
        raise ValueError(
            f"{other[0]} was trained as well, and peft's {kind.peft_type} keeps norms and a head; save the whole model"
        )


def _method(kind, saved, name, folder):
    try:
        return kind.method(saved, name)
    except (LookupError, TypeError, AttributeError) as error:
        # A kind reads what tensors it needs by name; what lacks one of them tells it by that name.
        raise ValueError(
            f"{folder} lacks a tensor that {kind.peft_type} needs ({one_line(error)}); get it again"
        ) from error


def _leaf(old, new, key, folder):
    if isinstance(old, Weight) and hasattr(old, "base"):
        return dataclasses.replace(old, base=_leaf(old.base, new, key, folder))
    if tuple(new.shape) != tuple(old.shape):
        raise ValueError(
            f"{folder}: tensor {printable(key)} has shape {tuple(new.shape)} and this base {tuple(old.shape)}; it "
            "belongs to another model"
        )
    return jnp.asarray(new, old.dtype)


def _some(names, most: int = 3) -> str:
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "none"
