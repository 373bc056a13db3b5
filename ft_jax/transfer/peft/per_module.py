"""What peft's files say of ranks, strengths and targets, module by module."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ft_jax.models.peft.formats import Saved


def exactly(places) -> tuple[str, ...]:
    """Targets that are these places and no others."""
    return tuple(f"model/{place}" for place in places)


def by_pattern(saved: Saved, field: str, place: str, default):
    """The value of ``rank_pattern`` or ``alpha_pattern`` for a module, by peft's rule."""
    module = _called(saved.modules, place)
    for pattern, value in (saved.config.get(field) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def strengths(saved: Saved, places, field: str, default) -> tuple[float, dict[str, float]]:
    """The common strength of `places`, and by path those that are others."""
    alpha = float(saved.config.get(field, default))
    own = {f"model/{place}": float(by_pattern(saved, "alpha_pattern", place, alpha)) for place in places}
    return alpha, {path: value for path, value in own.items() if value != alpha}


def per_module(values: Mapping[str, Any], modules, escaped: bool = True) -> tuple[Any, dict[str, Any]]:
    """The commonest value and the others by module, as peft's patterns; or by their names as they are."""
    common = Counter(values.values()).most_common(1)[0][0]
    named = {_called(modules, place): value for place, value in values.items() if value != common}
    return common, {re.escape(name) if escaped else name: value for name, value in named.items()}


def number(value: float) -> int | float:
    """`value`, whole where it is."""
    return int(value) if float(value).is_integer() else value


def ranks_and_alphas(holders, modules, ranks: Mapping[str, int], alpha: str) -> dict[str, Any]:
    """The fields about targets, ranks and strengths, of which `alpha` names one."""
    strengths = {place: number(float(f"{float(held.scale) * ranks[place]:.7g}")) for place, held in holders.items()}
    rank, rank_pattern = per_module(ranks, modules)
    strength, alpha_pattern = per_module(strengths, modules)
    fields = {"r": rank, "rank_pattern": rank_pattern, alpha: strength, "alpha_pattern": alpha_pattern}
    return {"target_modules": modules.targets(holders), **fields}


def rank_of(saved: Saved, place: str, ending: str) -> int:
    """The rows of the tensor ``<module>.<ending>`` of the projection at `place`; of a stack, those of one expert."""
    rows = saved.tensors[f"{saved.modules.prefix}{saved.modules.names[place]}.{ending}"].shape[0]
    return rows // (1 + len(saved.modules.tensors[place].more))


def _called(modules, place: str) -> str:
    """What a pattern of ranks or strengths is compared with: a module's name, or that of a stack of experts."""
    return modules.parameters.get(place, modules.names[place])
