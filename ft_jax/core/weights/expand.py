"""A matrix product whose second factor's gradient is formed without turning the wide side over."""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def expand(inner: Float[Array, "... rank"], b: Float[Array, "rank outputs"]) -> Float[Array, "... outputs"]:
    """``inner @ b``, for a narrow `inner` and a wide result.

    jax gives the gradient of `b` as ``(cotangentᵀ @ inner)ᵀ``, for which XLA on a CPU writes a turned-over copy of the
    wide cotangent, together with whatever elementwise work made it. Here it is
    ``innerᵀ @ cotangent``, which turns over the narrow side. Everything else, derivatives of any order and vmap
    included, is as for ``@``.

    Example:
      >>> expand(jnp.ones((3, 2)), jnp.ones((2, 4))).shape
      (3, 4)
    """
    return _expand.bind(inner, b)


def _product(inner, b):
    return jnp.matmul(inner, b)


def _inner_cotangent(cotangent, inner, b):
    return cotangent @ b.T


def _b_cotangent(cotangent, inner, b):
    axes = tuple(range(inner.ndim - 1))
    return jax.lax.dot_general(inner, cotangent, ((axes, axes), ((), ())))


def _batched(arguments, axes):
    return jax.vmap(_product, axes)(*arguments), 0


_expand = Primitive("expand")
_expand.def_impl(jax.jit(_product))
_expand.def_abstract_eval(lambda inner, b: _expand_shape(inner, b))
ad.defbilinear(_expand, _inner_cotangent, _b_cotangent)
batching.primitive_batchers[_expand] = _batched
mlir.register_lowering(_expand, mlir.lower_fun(_product, multiple_results=False))


def _expand_shape(inner, b):
    return inner.update(shape=(*inner.shape[:-1], b.shape[1]), weak_type=False)
