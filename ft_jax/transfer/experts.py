"""Stacks of experts among a model's weights: kernels ``[experts, inputs, outputs]`` of a mixture."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ft_jax.core.adapters import Targets
from ft_jax.core.params import STACKED, Params, digest, map_with_path, paths
from ft_jax.core.weights import is_weight, shape

EXPERTS = "/experts/"


def names_experts(targets: Targets) -> bool:
    """Whether a pattern says that it means experts; those of all kernels don't.

    Example:
      >>> names_experts(Targets(("*/experts/*/kernel",))), names_experts(Targets(("*mlp/*/kernel",)))
      (True, False)
    """
    return any("experts" in pattern for pattern in targets.include)


def stacks_of(params: Params, targets: Targets) -> list[str]:
    """The paths of the stacks of experts that `targets` name."""
    if not names_experts(targets):
        return []
    model = {"model": params["model"]}
    leaves = jax.tree.leaves(model, is_leaf=is_weight)
    found = zip(paths(model, is_weight), leaves, strict=True)
    return [path for path, weight in found if _stack(path, weight) and targets.fits(path)]


def replace_stacks(
    params: Params, hit: list[str], change: Callable[[str, Any, jax.Array], Any], key: jax.Array
) -> Params:
    """The whole tree with ``change(path, stack, key)`` in place of the stacks at `hit`, each layer's by itself."""

    def visit(path, weight):
        if path not in hit:
            return weight
        own = jax.random.fold_in(key, digest(path))
        if STACKED not in path:
            return change(path, weight, own)
        layers = jax.tree.leaves(weight)[0].shape[0]
        return jax.vmap(lambda layer, key: change(path, layer, key))(weight, jax.random.split(own, layers))

    return {**params, **map_with_path(visit, {"model": params["model"]}, is_leaf=is_weight)}


def besides(targets: Targets) -> Targets:
    """The same targets without stacks of experts."""
    return dataclasses.replace(targets, exclude=(*targets.exclude, f"*{EXPERTS}*"))


def _stack(path: str, weight: Any) -> bool:
    return EXPERTS in path and path.endswith("/kernel") and len(shape(weight)) == (4 if STACKED in path else 3)
