"""Which leaves: paths, filters, partition and combine over parameter trees."""

import difflib
import fnmatch
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.weights import is_weight

Params = Any
"""A nested dict of arrays and weight operators."""

Filter = Callable[[str, Any], bool | None]
"""``(path, leaf) -> True`` (learns), ``False`` (does not) or ``None`` (no opinion)."""


def path_of(key_path) -> str:
    """``"model/layers/0/attention/query/kernel"`` for a jax key path."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def paths(tree: Params, is_leaf=None) -> list[str]:
    """The path of every leaf, in tree order."""
    return [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]


def map_with_path(function: Callable[[str, Any], Any], tree: Params, is_leaf=None) -> Params:
    """`jax.tree.map` whose function also gets the leaf's path."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_of(path), leaf), tree, is_leaf=is_leaf)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a shell pattern fits the whole path; ``*`` crosses ``/``."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def only(*patterns: str) -> Filter:
    """Of the model's leaves, those whose path fits one of `patterns` learn and the others don't.

    Leaves outside ``model/`` are left to the methods they belong to.

    Example:
      >>> keep = only("*/head/*")
      >>> keep("model/head/kernel", None), keep("model/norm/scale", None), keep("adaptive.uncertainty/task", None)
      (True, False, None)
    """

    def keep(path, leaf):
        return matches(path, patterns) if path.startswith("model/") else None

    return keep


def never(*patterns: str) -> Filter:
    """Leaves whose path fits one of `patterns` don't learn; no opinion on the others."""
    return lambda path, leaf: False if matches(path, patterns) else None


def learns(filters: Iterable[Filter], path: str, leaf) -> bool:
    """The verdict of several filters: any True wins, else any False, else the leaf learns.

    This is a maximum over ``None < False < True``, so neither order nor grouping of the filters matters.
    """
    verdicts = {keep(path, leaf) for keep in filters}
    return True in verdicts or False not in verdicts


def partition(params: Params, filters: Iterable[Filter]) -> tuple[Params, Params]:
    """`params` as two trees of the same outline, ``(trainable, frozen)``, with None where the other has the leaf.

    Raises:
      ValueError: where a leaf that is not floating point (a quantised code) is asked to learn.
    """
    filters = tuple(filters)

    def verdict(path, leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if not floating and any(keep(path, leaf) for keep in filters):
            raise ValueError(
                f"{path} has type {leaf.dtype} and can't learn; put an adapter over it, or choose trainable "
                "leaves that leave it out"
            )
        return floating and learns(filters, path, leaf)

    keep = map_with_path(verdict, params)
    trainable = jax.tree.map(lambda yes, leaf: leaf if yes else None, keep, params)
    frozen = jax.tree.map(lambda yes, leaf: None if yes else leaf, keep, params)
    return trainable, frozen


def combine(*trees: Params) -> Params:
    """The inverse of `partition`: at each place the first tree that has a leaf gives it.

    Example:
      >>> combine({"a": 1, "b": None}, {"a": None, "b": 2})
      {'a': 1, 'b': 2}
    """

    def first(*leaves):
        return next((leaf for leaf in leaves if leaf is not None), None)

    return jax.tree.map(first, *trees, is_leaf=lambda leaf: leaf is None)


STACKED = "/layers/stacked/"
"""In the paths of layers that run in one scan, whose leaves have a leading axis of layers."""


def is_matrix(path: str, weight: Any) -> bool:
    """Whether what stands at `path` is a projection's or a table's weight: an operator or an array of two axes."""
    return is_weight(weight) or weight.ndim == (3 if STACKED in path else 2)


def replace_weights(
    params: Params, patterns: Iterable[str], change: Callable[[str, Any, jax.Array], Any], key: jax.Array
) -> Params:
    """Surgery: ``change(path, weight, key)`` in place of every matrix whose path fits one of `patterns`.

    A weight is an operator or an array of two dimensions; its key depends on `key` and the path alone. Weights
    of scanned layers (see `STACKED`), which have a leading axis of layers, are changed layer by layer.

    Raises:
      ValueError: where nothing matches, with the nearest paths.
    """
    patterns = tuple(patterns)
    seen, hit = [], []

    def visit(path, weight):
        if not is_matrix(path, weight):
            return weight
        seen.append(path)
        if not matches(path, patterns):
            return weight
        hit.append(path)
        own = jax.random.fold_in(key, digest(path))
        if STACKED not in path:
            return change(path, weight, own)
        layers = jax.tree.leaves(weight)[0].shape[0]
        return jax.vmap(lambda layer, key: change(path, layer, key))(weight, jax.random.split(own, layers))

    changed = map_with_path(visit, params, is_leaf=is_weight)
    if not hit:
        raise ValueError(f"no weight matches {', '.join(patterns)}; the nearest paths are {nearest(patterns[0], seen)}")
    return changed


def nearest(wanted: str, known: Iterable[str], count: int = 4) -> str:
    """The `known` names most like `wanted`, for error messages."""
    known = sorted(set(known))
    plain = wanted.replace("*", "")
    ranked = sorted(known, key=lambda name: -difflib.SequenceMatcher(None, plain, name).ratio())
    return ", ".join(ranked[:count]) or "none"


def digest(text: str) -> int:
    """A 32-bit digest of `text`, the same in every process, for folding into keys."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def count(params: Params) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
