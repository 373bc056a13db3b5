"""Where in a pile of operators on one weight an adapter goes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ft_jax.core.weights import Quantized, Weight, quantize


def beneath(weight: Any, change: Callable[[Any], Any]) -> Any:
    """``change(matrix)`` in place of the matrix that `weight` is, or that the modules behind it (bottlenecks) stand on.

    An adapter of a projection's weight belongs under what a method put behind the projection, in whichever order
    the two are named.
    """
    if isinstance(weight, Weight) and not weight.mergeable:
        return dataclasses.replace(weight, base=beneath(weight.base, change))
    return change(weight)


def innermost(weight: Any, change: Callable[[Any], Any]) -> Any:
    """``change(array or Quantized)`` in place of the stored matrix at the bottom of the pile.

    What splits or rounds the matrix itself goes there, so that every adapter over it sees the same function.
    """
    if isinstance(weight, Weight) and hasattr(weight, "base"):
        return dataclasses.replace(weight, base=innermost(weight.base, change))
    return change(weight)


def like(stored: jax.Array | Quantized, dense: jax.Array) -> jax.Array | Quantized:
    """`dense` kept the way `stored` is: in its type, or quantised in its format.

    Example:
      >>> import jax.numpy as jnp
      >>> like(jnp.ones((2, 2), jnp.bfloat16), jnp.zeros((2, 2))).dtype.name
      'bfloat16'
    """
    if isinstance(stored, Quantized):
        return quantize(dense, stored.format, stored.block, double=stored.second is not None)
    return dense.astype(stored.dtype)
