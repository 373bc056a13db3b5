"""Dropout on what an adapter reads, while the layer it stands on reads everything."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import map_operators_with_path
from ft_jax.core.params import STACKED, Params, digest
from ft_jax.core.state import Context
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator


@operator()
class Dropped(Weight):
    """An adapter whose ``update`` reads `x` with entries zeroed at `rate` and the others scaled by ``1 / (1 - rate)``.

    It stands in the parameters only while a training step looks at them, see `dropped`.
    """

    base: Any
    rate: Float[Array, ""]
    key: Array

    def matmul(self, x, bias=None):
        keep = jax.random.bernoulli(self.key, 1.0 - self.rate, x.shape)
        thinned = jnp.where(keep, x / (1.0 - self.rate).astype(x.dtype), jnp.zeros((), x.dtype))
        return matmul(self.base.base, x, bias) + self.base.update(thinned)

    def materialize(self):
        return materialize(self.base)

    @property
    def shape(self):
        return shape(self.base)


def dropped(params: Params, context: Context, name: str) -> Params:
    """The whole tree with the adapters of method `name` under dropout at ``hyper``'s rate, while training.

    Every weight, micro-batch and device draws with a key of its own from the step's.
    """
    if context.dropout_key is None:
        return params
    rate = context.hyper[name]["dropout"]

    def thin(path, weight):
        key = jax.random.fold_in(context.dropout_key, digest(f"{name}/{path}"))
        if STACKED not in path:
            return Dropped(base=weight, rate=rate, key=key)
        layers = jax.tree.leaves(weight)[0].shape[0]
        return Dropped(base=weight, rate=jnp.broadcast_to(rate, (layers,)), key=jax.random.split(key, layers))

    return {**params, **map_operators_with_path(thin, {"model": params["model"]}, owner=name)}


def check_rate(dropout: float | None, name: str) -> dict[str, float]:
    """The entry of ``hyper`` for a dropout rate; none where there is no dropout at all.

    Raises:
      ValueError: a rate outside of [0, 1).

    Example:
      >>> check_rate(0.1, "transfer.lora"), check_rate(None, "transfer.lora")
      ({'dropout': 0.1}, {})
    """
    if dropout is None:
        return {}
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{name} has dropout {dropout}; give a rate from 0 up to 1 (without it), or None")
    return {"dropout": dropout}


def with_dropout(view, dropout: float | None, name: str):
    """A `Method.view` followed by `dropped`, where there is dropout."""
    if dropout is None:
        return view
    return lambda params, context: dropped(view(params, context), context, name)
