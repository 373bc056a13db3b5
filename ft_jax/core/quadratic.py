"""Convex quadratic programs in a few unknowns; up to 8 are solved exactly, by trying every set of constraints."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MOST = 8
"""Unknowns: there are ``2^n`` sets, solved side by side."""

SWEEPS = 200
"""Rounds for more unknowns."""

RIDGE = 1e-7
"""Added to the diagonal, as a share of its mean, so that parallel gradients have a solution."""


def above(matrix: Float[Array, "n n"], linear: Float[Array, " n"], lower: Float[Array, " n"]) -> Float[Array, " n"]:
    """``argmin_v v·matrix·v / 2 + linear·v`` with ``v ≥ lower``.

    Args:
      matrix: positive semidefinite.
      linear: of the unknowns.
      lower: their bounds. Beyond `MOST` of them, `SWEEPS` rounds of exact steps along one unknown at a time.

    Example:
      >>> above(jnp.eye(2), jnp.array([1.0, -1.0]), jnp.zeros(2)).round(4).tolist()
      [0.0, 1.0]
    """
    if len(lower) > MOST:
        return _swept(_ridged(matrix), linear, lower)
    matrix, free = _prepared(matrix)

    def candidate(free):
        inside = free[:, None] * free[None, :]
        held = jnp.where(free, 0.0, lower)
        system = jnp.where(inside, matrix, jnp.eye(len(lower)))
        found = jnp.linalg.solve(system, jnp.where(free, -(linear + matrix @ held), 0.0))
        return jnp.where(free, found, lower)

    candidates = jax.vmap(candidate)(free)
    feasible = jnp.all(candidates >= lower - 1e-6, axis=1)
    return jnp.maximum(_best(matrix, linear, candidates, feasible), lower)


def simplex(matrix: Float[Array, "n n"], linear: Float[Array, " n"]) -> Float[Array, " n"]:
    """``argmin_w w·matrix·w / 2 + linear·w`` with ``w ≥ 0`` and ``Σ w = 1``.

    Args:
      matrix: positive semidefinite.
      linear: of the unknowns.

    Raises:
      ValueError: more than `MOST` unknowns.

    Example:
      >>> simplex(jnp.diag(jnp.array([1.0, 3.0])), jnp.zeros(2)).round(4).tolist()
      [0.75, 0.25]
    """
    matrix, free = _prepared(matrix)
    free = free[1:]
    # In units of the diagonal, so that the equation of the sum weighs as much as the others.
    unit = jnp.mean(jnp.diag(matrix))
    unit = jnp.where(unit > 0, unit, 1.0)
    matrix, linear = matrix / unit, linear / unit

    def candidate(free):
        inside = free[:, None] * free[None, :]
        system = jnp.where(inside, matrix, jnp.eye(len(linear)))
        border = free.astype(matrix.dtype)
        system = jnp.block([[system, border[:, None]], [border[None, :], jnp.zeros((1, 1))]])
        right = jnp.append(jnp.where(free, -linear, 0.0), 1.0)
        return jnp.where(free, jnp.linalg.solve(system, right)[:-1], 0.0)

    candidates = jax.vmap(candidate)(free)
    feasible = jnp.all(candidates >= -1e-6, axis=1)
    found = jnp.maximum(_best(matrix, linear, candidates, feasible), 0.0)
    return found / jnp.sum(found)


def _prepared(matrix):
    size = matrix.shape[0]
    if size > MOST:
        raise ValueError(f"a quadratic program of {size} unknowns has 2^{size} cases; give at most {MOST}")
    return _ridged(matrix), np.array(list(itertools.product((False, True), repeat=size)))


def _ridged(matrix):
    matrix = matrix.astype(jnp.float32)
    scale = jnp.mean(jnp.diag(matrix))
    return matrix + RIDGE * jnp.where(scale > 0, scale, 1.0) * jnp.eye(len(matrix))


def _swept(matrix, linear, lower):
    def along(at, v):
        return v.at[at].set(jnp.maximum(v[at] - (matrix[at] @ v + linear[at]) / matrix[at, at], lower[at]))

    return jax.lax.fori_loop(0, SWEEPS * len(lower), lambda turn, v: along(turn % len(lower), v), lower)


def _best(matrix, linear, candidates, feasible):
    values = jnp.einsum("ci,ij,cj->c", candidates, matrix, candidates) / 2 + candidates @ linear
    feasible &= jnp.isfinite(values)
    return candidates[jnp.argmin(jnp.where(feasible, values, jnp.inf))]
