"""Projections that are one module in the published checkpoint: their adapters as one, and apart again.

GPT-2's ``c_attn`` is query, key and value, Phi-3's ``gate_up_proj`` the first two of a gated MLP. An adapter that peft
has of such a module is one for each of the projections here, whose outputs are a stretch of the module's.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ft_jax.models.architectures.naming import Part
from ft_jax.models.peft.holders import Holders
from ft_jax.models.peft.modules import Modules
from ft_jax.outside import printable


@dataclasses.dataclass(frozen=True)
class Fusing:
    """How a kind's operators on parts of a module are one operator on it.

    Attributes:
      join: ``(operators by part, None where a part has none; sizes of the parts; whether they are to be alike) ->`` the
        module's operator.
      cut: ``(the module's operator, part's operator, part) ->`` the part's operator with its numbers.
    """

    join: Callable[[Sequence[Any], tuple[int, ...], bool], Any]
    cut: Callable[[Any, Any, Part], Any]


def stretches(*fields: str) -> Callable[[Any, Any, Part], Any]:
    """The `cut` of an operator whose `fields` have the outputs on their last axis, and whose others serve all parts."""

    def cut(whole, own, part):
        begin, end = part.bounds
        values = {name: x for name, x in vars(whole).items() if name not in ("base", "owner")}
        for name in fields:
            if values.get(name) is not None:
                values[name] = values[name][..., begin:end]
        return dataclasses.replace(own, **values)

    return cut


def joined(holders: Holders, modules: Modules, fusing: Fusing | None, kind: str, alike: bool = False) -> dict[str, Any]:
    """`holders` with those on parts of one module as one, at the place of its first part.

    Args:
      holders: of one method.
      modules: know which places are parts.
      fusing: of the kind, or None where it can't.
      kind: its name, for messages.
      alike: take what the parts have in common from the first, without a look at the others.

    Raises:
      ValueError: parts of a module, and a kind that has no operator for several.
    """
    made = {place: held for place, held in holders.items() if place not in modules.parts}
    for places in _groups(holders, modules):
        first = places[0]
        if fusing is None:
            raise ValueError(
                f"{first} is a part of {printable(modules.names[first])} in the published checkpoint, and peft's "
                f"{kind} has no adapter of a part; leave it out of targets, or use LoRA"
            )
        made[first] = fusing.join([holders.get(place) for place in places], modules.parts[first].sizes, alike)
    return made


def apart(filled: Mapping[str, Any], holders: Holders, modules: Modules, fusing: Fusing | None) -> Holders:
    """The inverse of `joined`: `holders` with the numbers of `filled`."""
    made = {place: filled[place] for place in holders if place not in modules.parts}
    for places in _groups(holders, modules):
        for place in places:
            if place in holders:
                made[place] = fusing.cut(filled[places[0]], holders[place], modules.parts[place])
    return made


def _groups(holders, modules) -> list[tuple[str, ...]]:
    """The places of each module of which a part has an operator, in the parts' order."""
    names = {modules.names[place] for place in holders if place in modules.parts}
    places = sorted(modules.parts, key=lambda place: modules.parts[place].index)
    return [tuple(place for place in places if modules.names[place] == name) for name in sorted(names)]


def concatenated(parts: Sequence[Any], field: str, sizes: Sequence[int], missing: float) -> Any:
    """A field with the outputs on its last axis, of all parts; `missing` where a part has no operator."""
    like = next(getattr(one, field) for one in parts if one is not None)
    pieces = [
        jnp.full((*like.shape[:-1], size), missing, like.dtype) if one is None else getattr(one, field)
        for one, size in zip(parts, sizes, strict=True)
    ]
    return jnp.concatenate(pieces, axis=-1)
