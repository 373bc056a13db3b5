"""What one method put into a model's parameters, found and put back by its place."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ft_jax.core.adapters import map_operators_with_path
from ft_jax.core.grafts import GRAFTS
from ft_jax.core.params import Params
from ft_jax.core.weights import Weight

Holders = dict[str, Any]
"""The operators and grafts of one method, by the path of the weight or module they stand on."""


def put(model: Params, holders: Holders, owner: str) -> Params:
    """The model's parameters with `holders` in the places of the method's operators and grafts."""

    def visit(node, path):
        if not isinstance(node, Mapping):
            return node
        children = {key: visit(child, (*path, key)) for key, child in node.items()}
        if GRAFTS in children and owner in children[GRAFTS]:
            children[GRAFTS] = {**children[GRAFTS], owner: holders["/".join(path)]}
        return children

    def filled(place, weight):
        # What stands under the operator may hold operators of other methods, which are visited first.
        return dataclasses.replace(holders[place], base=weight.base)

    return map_operators_with_path(filled, visit(model, ()), owner)


def held(model: Params, owner: str) -> Holders:
    """The operators and grafts of one method among the model's parameters."""
    found: Holders = {}

    def visit(node, path):
        if isinstance(node, Weight):
            if getattr(node, "owner", None) == owner:
                found["/".join(path)] = node
            elif hasattr(node, "base"):
                visit(node.base, path)
        elif isinstance(node, Mapping):
            if owner in node.get(GRAFTS, {}):
                found["/".join(path)] = node[GRAFTS][owner]
            for key, child in node.items():
                if key != GRAFTS:
                    visit(child, (*path, key))

    visit(model, ())
    return found


def owners(model: Params) -> dict[str, type]:
    """The methods that have operators or grafts among the model's parameters, and of what class."""
    found: dict[str, type] = {}

    def visit(node):
        if isinstance(node, Weight):
            if getattr(node, "owner", ""):
                found[node.owner] = type(node)
            if hasattr(node, "base"):
                visit(node.base)
        elif isinstance(node, Mapping):
            found.update({name: type(graft) for name, graft in node.get(GRAFTS, {}).items()})
            for key, child in node.items():
                if key != GRAFTS:
                    visit(child)

    visit(model)
    return found
