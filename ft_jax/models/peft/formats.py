"""The kinds of adapters that peft has files for, registered by the families that have them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax.core.catalogue import load_families
from ft_jax.core.method import Method
from ft_jax.core.params import Params, nearest
from ft_jax.core.weights import shape
from ft_jax.models.architectures import flat
from ft_jax.models.model import Model
from ft_jax.models.peft.adapter_config import Adapter
from ft_jax.models.peft.fused import Fusing
from ft_jax.models.peft.holders import Holders, owners
from ft_jax.models.peft.modules import PREFIX, Modules
from ft_jax.models.peft.tokens import FIELD, KIND
from ft_jax.outside import checked, cut, escaped, printable, read_json

METADATA = (
    "ensure_weight_tying",
    "auto_mapping", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "modules_to_save", "peft_type", "peft_version", "revision",
    "target_modules", "task_type",
)  # fmt: skip
"""Fields that change nothing for a reader: they are said again by the tensors, or are for peft's own bookkeeping."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """An adapter's files beside the model they are read for.

    Attributes:
      config: of adapter_config.json.
      tensors: of the adapter, by their full names; not those of whole leaves trained beside it.
      modules: the model's modules as the file calls them.
      model: which the adapter is for.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    modules: Modules
    model: Model

    def places(self, ending: str) -> tuple[str, ...]:
        """The paths of the projections that have a tensor ``<module><ending>``, such as ``".lora_A.weight"``."""
        found = [
            place
            for place, name in self.modules.names.items()
            if f"{self.modules.prefix}{name}{ending}" in self.tensors
        ]
        return tuple(found)

    def shape(self, place: str) -> tuple[int, ...]:
        """``(inputs, outputs)`` of the projection at `place`."""
        return shape(flat(self.model.params)[place])


@dataclasses.dataclass(frozen=True)
class PeftFormat:
    """How one of peft's kinds is read and written.

    Attributes:
      peft_type: its name there, such as ``"LORA"``.
      name: the default name of the method.
      holds: its operators' and grafts' classes.
      method: ``(saved, name) -> Method`` whose surgery makes places for the tensors; what it draws is replaced.
      describe: ``(holders, modules) ->`` the fields of adapter_config.json that are this kind's own.
      pack: ``(holders, modules) -> {tensor name: array}``, traceable, so that it tells names and shapes alone.
      unpack: ``(tensors, holders, modules) -> holders`` with the tensors' values.
      used: the fields of the configuration that `method` reads, of those that `Adapter` has.
      needs: of them, those without which it can't.
      taken: tensors that `method` puts in by itself, which `pack` need not give.
      onto: ``(holder, matrix) -> holder`` on that matrix with the same effect, where the method changed its base.
      neutral: fields that it knows at one value only; others it does not use must be None, False or empty.
      leaves: of a kind without operators, patterns of the model's own leaves that it trains.
      wrapper: what its files put between such a leaf's module and the leaf.
      fusing: how its operators on parts of one module are one, see `ft_jax.models.peft.fused`; None where they can't.
      lean: ``(holders, modules) -> (holders to write, fields)``, where a file holds less than the parameters do.
      tied: whether peft ties what stands on a tied table by itself.
      routers: those of `holds` that peft has for a mixture's router, which is no linear layer in transformers.
      turned: whether peft has it for GPT-2's modules, whose kernels are stored ``[inputs, outputs]``.
      virtual: what of its virtual tokens peft adds in its classes for a task, around the model as it is: ``"keys"`` or
        ``"embeddings"``; None where it has none.
    """

    peft_type: str
    name: str
    holds: tuple[type, ...]
    method: Callable[[Saved, str], Method]
    describe: Callable[[Holders, Modules], dict[str, Any]]
    pack: Callable[[Holders, Modules], dict[str, jax.Array]]
    unpack: Callable[[Mapping[str, np.ndarray], Holders, Modules], Holders]
    used: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    onto: Callable[[Any, jax.Array], Any] | None = None
    neutral: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    wrapper: str | None = None
    fusing: Fusing | None = None
    lean: Callable[[Holders, Modules], tuple[Holders, dict[str, Any]]] = lambda holders, modules: (holders, {})
    tied: bool = False
    routers: tuple[type, ...] = ()
    turned: bool = False
    virtual: str | None = None

    @property
    def prefix(self) -> str:
        """Of every module in a file."""
        return "base_model." if self.virtual else PREFIX


FORMATS: dict[str, PeftFormat] = {}
"""Those registered so far; `formats` has all."""


def formats() -> dict[str, PeftFormat]:
    """Every kind that a family registers, by peft's name."""
    load_families()
    return FORMATS


def register_format(kind: PeftFormat) -> PeftFormat:
    """Adds a kind.

    Raises:
      ValueError: where there is one of that name.
    """
    if kind.peft_type in FORMATS:
        raise ValueError(f"peft's {kind.peft_type} has a format already, that of {FORMATS[kind.peft_type].name}")
    FORMATS[kind.peft_type] = kind
    return kind


def beside_a_lora(params, kind) -> str | None:
    """The method whose tokens are written beside a LoRA; peft has them beside no other kind."""
    own = [name for name, one in owners(params).items() if issubclass(one, formats()[KIND].holds)]
    return own[0] if own and kind.peft_type == "LORA" else None


def kind_in(model: Params, owner: str | None) -> tuple[str | None, PeftFormat]:
    """The method whose adapter is to be written, and of which kind it is; without a name, the kind of bare leaves.

    Raises:
      ValueError: where `owner` has none, several have and none is named, or peft has no files for it.
    """
    found = owners(model)
    tokens = [name for name, one in found.items() if issubclass(one, formats()[KIND].holds)]
    others = [name for name in found if name not in tokens]
    if owner is None and len(tokens) == len(others) == 1 and issubclass(found[others[0]], formats()["LORA"].holds):
        owner = others[0]
    if owner is None and len(found) == 1:
        owner = next(iter(found))
    if owner is None and not found:
        bare = [kind for kind in formats().values() if kind.leaves]
        if bare:
            return None, bare[0]
    if owner not in found:
        have = f"they have {', '.join(found)}" if found else "they have none"
        raise ValueError(
            f"{f'parameters hold no adapter of {owner}' if owner else 'parameters hold not exactly one adapter'} "
            f"({have}); pass the parameters as the model sees them, and owner= with one of its names"
        )
    for kind in formats().values():
        if issubclass(found[owner], kind.holds):
            return owner, kind
    raise ValueError(
        f"{owner} is a {found[owner].__name__}, which peft has no files for; it has them for "
        f"{', '.join(kind.name for kind in formats().values())}"
    )


def read_config(path: Path) -> tuple[dict, PeftFormat]:
    """An adapter's configuration and its kind.

    Raises:
      ValueError: an unknown kind, or a field whose value is not implemented.
    """
    config = read_json(path)
    known = checked(Adapter, config, str(path))
    peft_type, known_kinds = config.get("peft_type"), formats()
    if peft_type not in known_kinds:
        raise ValueError(f"{path} has peft_type {printable(peft_type)}; known are {', '.join(sorted(known_kinds))}")
    kind = known_kinds[peft_type]
    for field, value in config.items():
        used = field in kind.used or field in METADATA or (field == FIELD and peft_type == "LORA")
        if used or value in (None, False, "", [], {}, kind.neutral.get(field)):
            continue
        others = nearest(field, (*kind.used, *kind.neutral), 2)
        raise ValueError(
            f"{path} has {cut(escaped(field), 60)}={printable(value)}, which is not implemented for {peft_type}; the "
            f"nearest known fields: {others}"
        )
    # Null is what peft writes for "as by default".
    said = {name: value for name, value in known.items() if value is not None}
    absent = next((name for name in kind.needs if name not in said), None)
    if absent is not None:
        raise ValueError(f"{path} has no {absent}, which {peft_type} needs; get it again")
    return said, kind
