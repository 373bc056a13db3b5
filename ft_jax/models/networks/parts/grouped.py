"""Matrix products over groups of rows that can be mapped over and differentiated any number of times.

`jax.lax.ragged_dot` itself can be mapped only where every argument is, and differentiated once; members of an
ensemble, gradients of single examples and gradients of gradients need more.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

CONTRACTED = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=(0,), rhs_group_dimensions=()
)


@jax.custom_vjp
def grouped(
    rows: Float[Array, "rows inputs"], kernels: Float[Array, "groups inputs outputs"], sizes: Int[Array, " groups"]
) -> Float[Array, "rows outputs"]:
    """Each row times the matrix of its group: the first ``sizes[0]`` rows are of group 0, and so on.

    Reverse-mode derivatives of every order and any nesting of `jax.vmap` work; forward mode does not.

    Example:
      >>> kernels = jnp.array([[[1.0]], [[10.0]]])
      >>> grouped(jnp.array([[1.0], [2.0], [3.0]]), kernels, jnp.array([1, 2])).tolist()
      [[1.0], [20.0], [30.0]]
    """
    return _product(rows, kernels, sizes)


def _grouped_forward(rows, kernels, sizes):
    # Itself and not the product, so that what is differentiated twice has a derivative here too.
    return grouped(rows, kernels, sizes), (rows, kernels, sizes)


def _grouped_backward(kept, gradient):
    rows, kernels, sizes = kept
    return grouped(gradient, kernels.swapaxes(1, 2), sizes), sums(rows, gradient, sizes), None


grouped.defvjp(_grouped_forward, _grouped_backward)


@jax.custom_vjp
def sums(
    left: Float[Array, "rows inputs"], right: Float[Array, "rows outputs"], sizes: Int[Array, " groups"]
) -> Float[Array, "groups inputs outputs"]:
    """Of each group of rows, ``leftᵀ · right``: the derivative of `grouped` by its kernels."""
    return _sums(left, right, sizes)


def _sums_forward(left, right, sizes):
    return sums(left, right, sizes), (left, right, sizes)


def _sums_backward(kept, gradient):
    left, right, sizes = kept
    return grouped(right, gradient.swapaxes(1, 2), sizes), grouped(left, gradient, sizes), None


sums.defvjp(_sums_forward, _sums_backward)


@custom_vmap
def _product(rows, kernels, sizes):
    return jax.lax.ragged_dot(rows, kernels, sizes)


@_product.def_vmap
def _product_mapped(count, mapped, rows, kernels, sizes):
    if mapped[1]:
        rows, kernels, sizes = _everywhere(count, mapped, rows, kernels, sizes)
        given = _product(_joined(rows), _joined(kernels), _joined(sizes))
        return given.reshape(*rows.shape[:2], -1), True
    # One set of kernels for all: rows of all copies are sorted by group, so that no kernel is copied.
    rows, sizes = _everywhere(count, (mapped[0], mapped[2]), rows, sizes)
    ends = jnp.cumsum(sizes, axis=1)
    find = functools.partial(jnp.searchsorted, side="right")
    groups = jax.vmap(find, in_axes=(0, None))(ends, jnp.arange(rows.shape[1])).reshape(-1)
    order = jnp.argsort(groups)
    given = _product(_joined(rows)[order], kernels, sizes.sum(axis=0))
    return jnp.zeros_like(given).at[order].set(given).reshape(*rows.shape[:2], -1), True


@custom_vmap
def _sums(left, right, sizes):
    return jax.lax.ragged_dot_general(left, right, sizes, CONTRACTED)


@_sums.def_vmap
def _sums_mapped(count, mapped, left, right, sizes):
    left, right, sizes = _everywhere(count, mapped, left, right, sizes)
    given = _sums(_joined(left), _joined(right), _joined(sizes))
    return given.reshape(*sizes.shape, *given.shape[1:]), True


def _everywhere(count, mapped, *arrays):
    """The arrays, each with the mapped axis first."""
    return tuple(
        array if has else jnp.broadcast_to(array, (count, *array.shape))
        for has, array in zip(mapped, arrays, strict=True)
    )


def _joined(array):
    """The two first axes as one."""
    return array.reshape(-1, *array.shape[2:])
