"""The Wasserstein-1 distance of the sorted values of two distributions."""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


def wasserstein(
    p: Float[Array, "... classes"], q: Float[Array, "... others"], top: int | None = None
) -> Float[Array, "..."]:
    """``Σ |sorted(p) - sorted(q)|`` from the largest on, the shorter one filled up with 0; no value is negative.

    With `top`, over so many of the largest, and the sums of the others as one value more.

    Example:
      >>> p, q = jnp.array([0.25, 0.75]), jnp.array([0.5, 0.25, 0.25])
      >>> round(float(wasserstein(p, q)), 4), round(float(wasserstein(p, q, top=1)), 4)
      (0.5, 0.5)
    """
    most = max(p.shape[-1], q.shape[-1])
    if top is None or top >= most:
        return _sorted_apart(p, q)
    sides = []
    for x in (p, q):
        largest = jax.lax.top_k(x, min(top, x.shape[-1]))[0]
        rest = jnp.sum(x, axis=-1, keepdims=True) - jnp.sum(largest, axis=-1, keepdims=True)
        largest = jnp.pad(largest, [(0, 0)] * (x.ndim - 1) + [(0, top - largest.shape[-1])])
        sides.append(jnp.concatenate([largest, rest], axis=-1))
    return jnp.sum(jnp.abs(sides[0] - sides[1]), axis=-1)


@jax.custom_jvp
def _sorted_apart(p, q):
    """The distance over all values.

    A value's derivative is the sign of the difference at its place. A sort that also moves places, which the derivative
    of a sort asks for, is slower than one of numbers alone, so each value is looked up among the sorted ones instead.
    """
    own, theirs = _ascending(p, q)
    return jnp.sum(jnp.abs(own - theirs), axis=-1)


@functools.partial(_sorted_apart.defjvp, symbolic_zeros=True)
def _sorted_apart_jvp(primals, tangents):
    own, theirs = _ascending(*primals)
    difference, moved = own - theirs, 0.0
    signs = jnp.sign(difference)
    for x, ordered, sign, tangent in zip(primals, (own, theirs), (signs, -signs), tangents, strict=True):
        if not isinstance(tangent, SymbolicZero):
            flat = (one.reshape(-1, one.shape[-1]) for one in (x, ordered, sign))
            moved += jnp.sum(jax.vmap(_looked_up)(*flat).reshape(x.shape) * tangent, axis=-1)
    return jnp.sum(jnp.abs(difference), axis=-1), moved


def _ascending(*sides):
    """Each side from the smallest value on, the shorter ones with zeros in front.

    The bits of floats that are not negative are integers in the same order, whose sort needs no care for NaN.
    """
    most = max(x.shape[-1] for x in sides)
    ordered = []
    for x in sides:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"int{8 * x.dtype.itemsize}"))
        values = jax.lax.bitcast_convert_type(jax.lax.sort(bits, is_stable=False), x.dtype)
        ordered.append(jnp.pad(values, [(0, 0)] * (x.ndim - 1) + [(most - x.shape[-1], 0)]))
    return ordered


def _looked_up(values, ordered, signs):
    """``[classes]``: the sign at each value's place among the ordered; of equal values the mean over their places."""
    begins = jnp.pad(ordered[1:] != ordered[:-1], (1, 0), constant_values=True)
    begin = jax.lax.cummax(jnp.where(begins, jnp.arange(len(ordered)), 0))
    total, count = (
        jnp.zeros_like(signs).at[begin].add(x, indices_are_sorted=True) for x in (signs, jnp.ones_like(signs))
    )
    return (total / jnp.maximum(count, 1))[jnp.searchsorted(ordered, values)]
