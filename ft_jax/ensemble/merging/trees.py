"""Merges of parameter trees in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.params import Params, paths
from ft_jax.core.weights import is_weight
from ft_jax.ensemble.merging.rule import Piece, Rule, weights_of


def merge_trees(
    rule: Rule,
    models: Sequence[Params],
    *,
    base: Params | None = None,
    weights: Sequence[float] | None = None,
    fishers: Sequence[Params] | None = None,
) -> Params:
    """One tree of several.

    Args:
      rule: how, such as `ties`.
      models: trees of the same outline; adapters merged into the weights first (`ft_jax.core.weights.merge`).
      base: the tree that they were trained from, for rules that need one.
      weights: of each model, 1 by default.
      fishers: each model's diagonal Fisher information, for `fisher`.

    Returns:
      A tree like the first, whose arrays that are no floating-point numbers must be the same in all.

    Raises:
      ValueError: trees of different outlines, an adapter in one, or what the rule refuses.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> merge_trees(merging.slerp(0.0), [{"w": np.zeros(2)}, {"w": np.ones(2)}])
      {'w': array([0., 0.])}
    """
    given = weights_of(rule, weights, len(models), base is not None, fishers is not None)
    flat = [_flat(tree, f"model {index}") for index, tree in enumerate(models)]
    around = {} if base is None else {"the base": _flat(base, "the base")}
    around |= {f"the Fisher information {k}": _flat(tree, "it") for k, tree in enumerate(fishers or ())}
    others = {f"model {index}": leaves for index, leaves in enumerate(flat)} | around
    check_outlines({name: {path: np.shape(x) for path, x in leaves.items()} for name, leaves in others.items()})
    if fishers is not None and len(fishers) != len(models):
        raise ValueError(f"there are {len(models)} models and {len(fishers)} Fisher informations; pass one for each")

    def piece(path, notes=None):
        stacked = wide(*(leaves[path] for leaves in flat))
        like = lambda x: np.asarray(x).astype(stacked.dtype)  # noqa: E731
        return Piece(
            path,
            stacked,
            given,
            None if base is None else like(around["the base"][path]),
            None if fishers is None else np.stack([like(others[f"the Fisher information {k}"][path])
                                                   for k in range(len(models))]),
            notes,
        )  # fmt: skip

    floating = [path for path, leaf in flat[0].items() if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)]
    notes = rule.survey(lambda: map(piece, floating)) if rule.survey else None

    def merged(path, leaf):
        if path not in floating:
            same({name: np.asarray(leaves[path]) for name, leaves in others.items()}, path)
            return leaf
        result = rule(piece(path, notes)).astype(leaf.dtype)
        return jnp.asarray(result) if isinstance(leaf, jax.Array) else result

    leaves = [merged(path, leaf) for path, leaf in flat[0].items()]
    return jax.tree.unflatten(jax.tree.structure(models[0]), leaves)


def wide(*tensors: np.ndarray) -> np.ndarray:
    """Stacked in the type that merges compute in: float64 where all are, else float32."""
    arrays = [np.asarray(tensor) for tensor in tensors]
    dtype = np.float64 if all(array.dtype == np.float64 for array in arrays) else np.float32
    return np.stack([array.astype(dtype) for array in arrays])


def check_outlines(outlines: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
    """Refuses models whose tensors have other names or shapes than the first's.

    Raises:
      ValueError: names the model, the tensor and both shapes.
    """
    (first, wanted), *others = outlines.items()
    for name, found in others:
        for tensor in [*wanted, *found]:
            if tensor not in found or tensor not in wanted:
                has, lacks = (first, name) if tensor in wanted else (name, first)
                raise ValueError(
                    f"{has} has a tensor {tensor!r} and {lacks} has none; only models of one architecture merge; "
                    "leave one of them out"
                )
            if wanted[tensor] != found[tensor]:
                raise ValueError(
                    f"{tensor!r} has shape {wanted[tensor]} in {first} and {found[tensor]} in {name}; only models of "
                    "one architecture merge"
                )


def same(values: Mapping[str, np.ndarray], tensor: str) -> None:
    """Refuses numbers that can't be merged, such as indices, where they are not the same in all models.

    Raises:
      ValueError: names the tensor and two models.
    """
    (first, wanted), *others = values.items()
    for name, value in others:
        if not np.array_equal(wanted, value):
            raise ValueError(
                f"{tensor!r} is {wanted.dtype} and differs between {first} and {name}; only floating-point tensors "
                "merge"
            )


def _flat(tree, what: str) -> dict[str, Any]:
    for path, leaf in zip(paths(tree, is_weight), jax.tree.leaves(tree, is_leaf=is_weight), strict=True):
        if is_weight(leaf):
            raise ValueError(
                f"{what} has a {type(leaf).__name__} at {path}, whose factors do not merge entry by entry; merge it "
                "into the weight first (ft_jax.core.weights.merge), or merge saved adapters with merge_adapters"
            )
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))
