"""Putting a method's operators on weights of a model, and finding them and their leaves again."""

import dataclasses
import glob
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ft_jax.core.params import Filter, Params, is_matrix, map_with_path, matches, nearest, paths, replace_weights
from ft_jax.core.weights import is_weight
from ft_jax.outside import listed


@dataclasses.dataclass(frozen=True)
class Targets:
    """Weights whose path fits one of `include` and none of `exclude`."""

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()

    def fits(self, path: str) -> bool:
        """Whether the weight at `path` is one of them."""
        return matches(path, self.include) and not matches(path, self.exclude)


SETS = {
    "all-linear": Targets(("*/kernel",), ("*/head/*", "*/embed*", "*/stem/*")),
    "attention": Targets(("*attention/*/kernel",), ("*/head/*",)),
    "mlp": Targets(("*mlp/*/kernel",), ("*/head/*",)),
}
"""The named sets: every projection but the head and the embeddings, or a layer's two halves."""


def as_targets(targets: str | Iterable[str] | Targets) -> Targets:
    """A named set, a pattern over parameter paths, or several patterns.

    Raises:
      ValueError: a word that is neither.

    Example:
      >>> as_targets("attention").fits("model/layers/0/attention/query/kernel")
      True
    """
    if isinstance(targets, Targets):
        return targets
    if isinstance(targets, str) and targets in SETS:
        return SETS[targets]
    patterns = (targets,) if isinstance(targets, str) else tuple(targets)
    for pattern in patterns:
        # The path of a weight has at least one slash, so a bare word is a set's name written otherwise, or a module's.
        if not isinstance(pattern, str) or not any(sign in pattern for sign in "/*?["):
            raise ValueError(
                f"targets has {pattern!r}, which is no pattern over parameter paths; write '*/{pattern}/kernel', or "
                f"one of the named sets {', '.join(map(repr, SETS))}"
            )
    return Targets(patterns)


def adapt(
    params: Params, targets: Targets, change: Callable[[str, Any, jax.Array], Any], key: jax.Array, name: str
) -> Params:
    """The whole tree with ``change(path, weight, key)`` in place of every target among the model's weights.

    Raises:
      ValueError: where `targets` are no weight of the model, with the nearest paths.
    """
    hit = [glob.escape(path) for path in weights_of(params, targets, name)]
    return {**params, **replace_weights({"model": params["model"]}, hit, change, key)}


def weights_of(params: Params, targets: Targets, name: str) -> list[str]:
    """The paths of the model's weights that are `targets`.

    Raises:
      ValueError: where there are none, with the nearest paths.
    """
    model = {"model": params["model"]}
    known = [
        path
        for path, weight in zip(paths(model, is_weight), jax.tree.leaves(model, is_leaf=is_weight), strict=True)
        if is_matrix(path, weight)
    ]
    hit = [path for path in known if targets.fits(path)]
    if not hit:
        raise ValueError(
            f"{name}: no weight matches {listed(targets.include)}; the nearest paths are "
            f"{nearest(next(iter(targets.include), ''), known)}; the named sets are {', '.join(SETS)}"
        )
    return hit


def require(params: Params, patterns: Iterable[str], name: str) -> None:
    """Refuses patterns that fit no leaf of the model.

    Raises:
      ValueError: on the first such pattern, with the nearest paths.
    """
    known = paths({"model": params["model"]})
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in known):
            raise ValueError(f"{name}: no parameter matches {pattern}; the nearest paths are {nearest(pattern, known)}")


def owned(name: str, fields: Iterable[str], also: Iterable[str] = ()) -> Filter:
    """Of the model's leaves, the `fields` of what the method `name` put there and what fits `also` learn.

    The model's other leaves don't; leaves outside ``model/`` are left to the methods they belong to.

    Example:
      >>> keep = owned("transfer.lora", ("a", "b"))
      >>> path = "model/layers/0/mlp/up/kernel"
      >>> keep(f"{path}/transfer.lora/a", None), keep(f"{path}/transfer.lora/scale", None), keep(f"{path}/base", None)
      (True, False, False)
    """
    endings = tuple(f"/{name}/{field}" for field in fields)

    def keep(path, leaf):
        if not path.startswith("model/"):
            return None
        return path.endswith(endings) or matches(path, also)

    return keep


def map_operators(function: Callable[[Any], Any], tree: Params, owner: str | None = None) -> Params:
    """`tree` with ``function(operator)`` in place of every operator, those under others too, innermost first.

    Args:
      function: what to do with an operator.
      tree: parameters, or their gradients or updates, whose arrays may be None.
      owner: only the operators of this method.
    """
    return map_operators_with_path(lambda path, weight: function(weight), tree, owner)


def map_operators_with_path(function: Callable[[str, Any], Any], tree: Params, owner: str | None = None) -> Params:
    """`map_operators` whose function also gets the path of the weight that the operator stands on."""

    def visit(path, weight):
        if not is_weight(weight):
            return weight
        if hasattr(weight, "base"):
            weight = dataclasses.replace(weight, base=visit(path, weight.base))
        mine = owner is None or getattr(weight, "owner", None) == owner
        return function(path, weight) if mine else weight

    return map_with_path(visit, tree, is_leaf=is_weight)


def per_path(path: str, default, exceptions: Mapping[str, Any]):
    """The value of the first pattern in `exceptions` that fits `path`, else `default`: ranks and scales per weight.

    Example:
      >>> per_path("model/layers/3/mlp/up/kernel", 8, {"*/layers/3/*": 32})
      32
    """
    return next((value for pattern, value in exceptions.items() if matches(path, (pattern,))), default)
