"""Random subspaces: every member sees its own features."""

import jax
import jax.numpy as jnp

from ft_jax.core.adapters import as_targets, weights_of
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import map_with_path
from ft_jax.core.weights.operator import is_weight, shape
from ft_jax.ensemble.diversity.batch_ensemble import RankOne


@register(
    "ensemble",
    paper="Ho 1998, The Random Subspace Method for Constructing Decision Forests",
    example=lambda problem: random_subspace(0.9),
    neutral=Neutral({"share": 1.0}),
    pretrained=False,
)
def random_subspace(
    share: float = 0.5, readers: tuple[str, ...] = ("*/head/kernel",), *, name: str = "ensemble.random_subspace"
) -> Method:
    """Shows some weights a share of the features that they read, which this member drew.

    A reader ``x @ w`` becomes ``(x ∘ seen) @ w`` with ``seen`` 1 at ``max(round(share · inputs), 1)`` inputs, in
    training, evaluation and what is saved alike; readers of one width see the same. Name it inside of `members`: each
    member then draws its own.

    Args:
      share: of the features, data in ``hyper``; at least one is seen.
      readers: patterns over the paths of the weights ``[inputs, outputs]`` whose inputs are the features: the head, or
        the first layer of a network of pixels or columns.
      name: the method's name; the member's key is in ``memory[name]``.

    Raises:
      ValueError: a share outside (0, 1]; at init, readers that are no weight of the model.

    Example:
      >>> random_subspace(0.5, readers=("*/up/kernel",)).hyper
      {'share': 0.5}
    """
    if not 0 < share <= 1:
        raise ValueError(f"{name} has share {share}; give a number above 0 and at most 1")

    def surgery(params, key):
        weights_of(params, as_targets(readers), name)
        return params

    def view(params, context):
        key, shown = jax.random.wrap_key_data(context.memory[name]), context.hyper[name]["share"]
        hit = {*weights_of(params, as_targets(readers), name)}

        def masked(path, weight):
            if path not in hit:
                return weight
            inputs, outputs = shape(weight)
            order = jax.random.permutation(jax.random.fold_in(key, inputs), inputs)
            seen = order < jnp.maximum(jnp.round(shown * inputs), 1)
            return RankOne(base=weight, r=seen.astype(jnp.float32), s=jnp.ones(outputs), owner=name)

        return {**params, **map_with_path(masked, {"model": params["model"]}, is_leaf=is_weight)}

    return Method(
        name=name,
        hyper={"share": share},
        surgery=surgery,
        memory=lambda params, key: jax.random.key_data(key),
        view=view,
    )
