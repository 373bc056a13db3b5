"""The experts of a mixture in peft's files: its ``target_parameters``.

transformers holds the experts of a layer in two parameters, ``gate_up_proj [experts, 2 · mlp, width]`` and
``down_proj [experts, width, mlp]``, which are no modules. peft wraps the module around them once for each parameter:
the last one's factors are under the module's name, those of one before it under ``base_layer``.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ft_jax.core.weights import shape
from ft_jax.models.architectures.naming import Part
from ft_jax.models.peft.modules import Modules
from ft_jax.outside import listed, printable

FIELD = "target_parameters"
INNER, OUTER = "gate_up_proj", "down_proj"
PARAMETERS = {"gate": INNER, "up": INNER, "down": OUTER}
"""Which parameter a projection's stack of experts is (a part of)."""


def of_file(modules: Modules, config: Mapping[str, Any], model: Any, where: Any) -> Modules:
    """`modules` with the names of the stacks of experts that a file's ``target_parameters`` mean.

    Raises:
      ValueError: one that is no stack of experts of this model.
    """
    wanted, stacks, meant = config.get(FIELD) or (), _stacks(modules), set()
    for name in wanted:
        found = [place for place, full in stacks.items() if full == name or full.endswith(f".{name}")]
        plain = any(tensor.name == name or tensor.name.endswith(f".{name}") for tensor in modules.tensors.values())
        if not found and not plain:  # A module's own matrix is adapted as by ``target_modules``.
            known = sorted({full.split(".", 3)[-1] for full in stacks.values()})
            raise ValueError(
                f"{where} has {FIELD} {printable(name)}, which is no stack of experts of this model "
                f"({f'it has {listed(known)}' if known else 'it has none'}); merge the adapter with peft, or load it "
                "for the model it was trained on"
            )
        meant |= set(found)
    return with_experts(modules, meant, model)


def with_experts(modules: Modules, places: Collection[str], model: Any) -> Modules:
    """`modules` with names for the stacks of experts at `places`, as an adapter of exactly these has them."""
    stacks, names, parts, parameters = _stacks(modules), {}, {}, {}
    held = {stacks[place] for place in places if place in stacks}
    for place, full in stacks.items():
        if full not in held:
            continue
        module, _, parameter = full.rpartition(".")
        nested = parameter == INNER and f"{module}.{OUTER}" in held
        names[place] = f"{module}.base_layer" if nested else module
        parameters[place] = full
        if parameter == INNER:
            width = shape(_leaf(model.params, place))[-1]
            parts[place] = Part(0 if place.split("/")[-2] == "gate" else 1, (width, width))
    return dataclasses.replace(
        modules, names={**modules.names, **names}, parts={**modules.parts, **parts}, parameters=parameters
    )


def targets_of(modules: Modules, places: Collection[str]) -> dict[str, Sequence[str]]:
    """``target_parameters`` for the stacks among `places`: short where all layers' are meant."""
    chosen = {modules.parameters[place] for place in places if place in modules.parameters}
    short = {".".join(full.split(".")[-3:]) for full in chosen}
    every = {full for full in _stacks(modules).values() if ".".join(full.split(".")[-3:]) in short}
    return {FIELD: sorted(short if every == chosen else chosen)} if chosen else {}


def _stacks(modules: Modules) -> dict[str, str]:
    """The parameter in transformers by the path of every stack of experts."""
    found = {}
    for path, tensor in modules.tensors.items():
        *_, experts, part, kind = ("", "", *path.split("/"))
        if tensor.more and experts == "experts" and kind == "kernel" and part in PARAMETERS:
            found[path] = f"{tensor.name.partition('.experts.')[0]}.experts.{PARAMETERS[part]}"
    return found


def _leaf(params: Mapping[str, Any], path: str) -> Any:
    for part in path.split("/"):
        params = params[part]
    return params
