"""The matrix product of activations and a weight, whose weight's gradient is formed the way round that is fast."""

import math

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def product(x: Float[Array, "... inputs"], weight: Float[Array, "inputs outputs"]) -> Float[Array, "... outputs"]:
    """``x @ weight``.

    jax gives the gradient of `weight` as ``(cotangentᵀ @ x)ᵀ``, for which XLA on a CPU writes a turned-over copy of the
    cotangent, together with whatever elementwise work made it. Here it is that or ``xᵀ @ cotangent``, whichever turns
    over the narrower of the two. Everything else, derivatives of any order and vmap included, is as for ``@``.

    Example:
      >>> product(jnp.ones((3, 2)), jnp.ones((2, 4))).shape
      (3, 4)
    """
    return _product.bind(x, weight)


CHEAP_INPUTS = 256
"""A product over so few inputs is made again in less time than its result takes to be written and read."""


def saves_products(primitive, *arguments, **parameters) -> bool:
    """A policy for `jax.checkpoint`: keeps the results of products with weights and recomputes the rest.

    Products over few inputs (`CHEAP_INPUTS`) belong to the rest. The second of a low-rank update is one: each number of
    its result is a sum over the rank, and would stand in memory beside the base's.
    """
    if primitive is _product:
        inputs = arguments[1].shape[0]
    elif jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *arguments, **parameters):
        (contracted, _), _ = parameters["dimension_numbers"]
        inputs = math.prod(arguments[0].shape[axis] for axis in contracted)
    else:
        return False
    return inputs > CHEAP_INPUTS


def _plain(x, weight):
    return jnp.matmul(x, weight)


def _x_cotangent(cotangent, x, weight):
    return cotangent @ weight.T


def _weight_cotangent(cotangent, x, weight):
    axes = tuple(range(x.ndim - 1))
    if x.shape[-1] > cotangent.shape[-1]:
        return jax.lax.dot_general(cotangent, x, ((axes, axes), ((), ()))).T
    return jax.lax.dot_general(x, cotangent, ((axes, axes), ((), ())))


def _batched(arguments, axes):
    return jax.vmap(_plain, axes)(*arguments), 0


def _outline(x, weight):
    # The product is formed when it is lowered; a trace alone would pass over shapes that don't fit.
    if x.shape[-1:] != weight.shape[:1]:
        raise ValueError(
            f"a product of activations {list(x.shape)} with a weight {list(weight.shape)} has {x.shape[-1]} inputs for "
            f"{weight.shape[0]}; give the model what it was made for"
        )
    return x.update(shape=(*x.shape[:-1], weight.shape[1]), weak_type=False)


_product = Primitive("product")
_product.def_impl(jax.jit(_plain))
_product.def_abstract_eval(_outline)
ad.defbilinear(_product, _x_cotangent, _weight_cotangent)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_plain, multiple_results=False))
