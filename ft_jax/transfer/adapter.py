"""What every adapter of this family is made of: operators on chosen weights, whose fields learn."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from ft_jax.core.adapters import Targets, adapt, as_targets, owned, require
from ft_jax.core.method import Method
from ft_jax.core.params import is_matrix, paths
from ft_jax.core.weights import is_weight
from ft_jax.transfer.experts import besides, replace_stacks, stacks_of
from ft_jax.transfer.nesting import beneath

Build = Callable[[str, Any, jax.Array], Any]
"""``(path, matrix, key) -> operator`` on that matrix."""


def adapter(
    name: str,
    build: Build,
    fields: Iterable[str],
    targets: str | Iterable[str] | Targets,
    also: str | Iterable[str],
    *,
    depth: Callable[[Any, Callable[[Any], Any]], Any] = beneath,
    stacks: bool = False,
    **parts: Any,
) -> Method:
    """The method that puts an operator on each chosen weight; its fields and what fits `also` learn, the rest doesn't.

    Args:
      name: the method's, and its operators' ``owner``.
      build: gives the operator.
      fields: of the operator, those that learn.
      targets, also: as in `ft_jax.transfer.lora`.
      stacks: whether `build` takes stacks of experts ``[experts, inputs, outputs]`` as well.
      depth: where it goes among other operators of a weight, see `ft_jax.transfer.nesting`.
      **parts: the method's further ones, such as ``hyper`` and ``view``.
    """
    targets, also = as_targets(targets), (also,) if isinstance(also, str) else tuple(also)

    def on(path, weight, key):
        return depth(weight, lambda matrix: build(path, matrix, key))

    def surgery(params, key):
        require(params, also, name)
        experts = stacks_of(params, targets)
        if experts and not stacks:
            raise ValueError(
                f"{name}: {experts[0]} is a stack of experts, and such an update is for single matrices; leave it out "
                "of targets, or use a plain transfer.lora without dropout and bias"
            )
        if experts:
            params = replace_stacks(params, experts, on, key)
            if not any(besides(targets).fits(path) for path in matrices_of(params)):
                return params
        return adapt(params, besides(targets), on, key, name)

    return Method(name=name, surgery=surgery, trainable=owned(name, fields, also), **parts)


def matrices_of(params: Any) -> list[str]:
    """The paths of the model's weights of two axes."""
    model = {"model": params["model"]}
    leaves = jax.tree.leaves(model, is_leaf=is_weight)
    return [path for path, weight in zip(paths(model, is_weight), leaves, strict=True) if is_matrix(path, weight)]
