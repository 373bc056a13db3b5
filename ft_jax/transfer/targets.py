"""Which weights of a model an adapter goes on, and finding the adapter's leaves and operators again."""

import dataclasses
import glob
from collections.abc import Callable, Iterable
from typing import Any

import jax

from ft_jax.core.params import Filter, Params, matches, nearest, paths, replace_weights
from ft_jax.core.weights import is_weight


@dataclasses.dataclass(frozen=True)
class Targets:
    """Weights whose path fits one of `include` and none of `exclude`."""

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()

    def fits(self, path: str) -> bool:
        """Whether the weight at `path` is one of them."""
        return matches(path, self.include) and not matches(path, self.exclude)


SETS = {
    "all-linear": Targets(("*/kernel",), ("*/head/*", "*/embed*")),
    "attention": Targets(("*attention/*/kernel",), ("*/head/*",)),
    "mlp": Targets(("*mlp/*/kernel",), ("*/head/*",)),
}
"""The named sets: every projection but the head and the embeddings, or a layer's two halves."""


def as_targets(targets: str | Iterable[str]) -> Targets:
    """A named set, a pattern over parameter paths, or several patterns.

    Example:
      >>> as_targets("attention").fits("model/layers/0/attention/query/kernel")
      True
    """
    if isinstance(targets, str):
        return SETS.get(targets, Targets((targets,)))
    return Targets(tuple(targets))


def adapt(
    params: Params, targets: Targets, change: Callable[[str, Any, jax.Array], Any], key: jax.Array, name: str
) -> Params:
    """The whole tree with ``change(path, weight, key)`` in place of every target among the model's weights.

    Raises:
      ValueError: where `targets` are no weight of the model, with the nearest paths.
    """
    model = {"model": params["model"]}
    known = [
        path
        for path, weight in zip(paths(model, is_weight), jax.tree.leaves(model, is_leaf=is_weight), strict=True)
        if is_weight(weight) or weight.ndim == 2
    ]
    hit = [glob.escape(path) for path in known if targets.fits(path)]
    if not hit:
        raise ValueError(
            f"{name}: no weight matches {', '.join(targets.include)}; the nearest paths are "
            f"{nearest(targets.include[0], known)}; the named sets are {', '.join(SETS)}"
        )
    return {**params, **replace_weights(model, hit, change, key)}


def require(params: Params, patterns: Iterable[str], name: str) -> None:
    """Refuses patterns that fit no leaf of the model.

    Raises:
      ValueError: on the first such pattern, with the nearest paths.
    """
    known = paths({"model": params["model"]})
    for pattern in patterns:
        if not any(matches(path, (pattern,)) for path in known):
            raise ValueError(f"{name}: no parameter matches {pattern}; the nearest paths are {nearest(pattern, known)}")


def adapter_leaves(targets: Targets, fields: tuple[str, ...], ndim: int, also: tuple[str, ...] = ()) -> Filter:
    """Of the model's leaves, the `fields` of operators on `targets` and what fits `also` learn, the others don't.

    An operator may stand under later ones, so its leaf's path is the weight's, any number of ``base``, and
    the field. `ndim` tells a learned array from an operator's number of the same name.
    """

    def keep(path, leaf):
        if not path.startswith("model/"):
            return None
        weight, _, field = path.rpartition("/")
        while weight.endswith("/base"):
            weight = weight.removesuffix("/base")
        own = field in fields and leaf.ndim == ndim and targets.fits(weight)
        return own or matches(path, also)

    return keep


def map_operators(function: Callable[[Any], Any], tree: Params) -> Params:
    """`tree` with ``function(operator)`` in place of every operator, those under others too, innermost first."""

    def visit(weight):
        if not is_weight(weight):
            return weight
        if hasattr(weight, "base"):
            weight = dataclasses.replace(weight, base=visit(weight.base))
        return function(weight)

    return jax.tree.map(visit, tree, is_leaf=is_weight)
