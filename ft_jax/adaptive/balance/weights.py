"""Weights of the terms of a loss by the Gram matrix of their gradients: functions of small matrices alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.quadratic import above, simplex

ROUNDS = 40
"""Of the alternation that solves CAGrad's program."""


def pcgrad_weights(gram: Float[Array, "terms terms"], key: jax.Array) -> Float[Array, " terms"]:
    """Each gradient loses, for the others in random order, what conflicts with them; the sum of what is left.

    ``g_i ← g_i - min(g_i·g_j, 0) / |g_j|² g_j`` for ``j ≠ i``, algorithm 1 of Yu et al. 2020.

    Example:
      >>> pcgrad_weights(jnp.array([[1.0, -1.0], [-1.0, 2.0]]), jax.random.key(0)).tolist()
      [2.0, 1.5]
    """
    count = gram.shape[0]

    def projected(index, key):
        order = jax.random.permutation(key, count)

        def body(own, other):
            dot = own @ gram[other]
            size = jnp.where(gram[other, other] > 0, gram[other, other], 1.0)
            loss = jnp.where(other == index, 0.0, jnp.minimum(dot, 0.0) / size)
            return own.at[other].add(-loss), None

        return jax.lax.scan(body, jnp.eye(count)[index], order)[0]

    return jnp.sum(jax.vmap(projected)(jnp.arange(count), jax.random.split(key, count)), axis=0)


def mgda_weights(gram: Float[Array, "terms terms"]) -> Float[Array, " terms"]:
    """The convex combination of least norm, ``argmin_w |Σ w_i g_i|²`` over the simplex (Désidéri 2012).

    Example:
      >>> mgda_weights(jnp.diag(jnp.array([1.0, 3.0]))).round(4).tolist()
      [0.75, 0.25]
    """
    return simplex(gram, jnp.zeros(gram.shape[0]))


def upgrad_weights(gram: Float[Array, "terms terms"]) -> Float[Array, " terms"]:
    """The mean of the gradients' projections onto the cone of directions that no term objects to.

    The projection of ``g_i`` is ``Σ_j v_j g_j`` with ``v = argmin v·gram·v`` subject to ``v ≥ e_i`` (Quinton and Rey
    2024, proposition 1).

    Example:
      >>> upgrad_weights(jnp.diag(jnp.array([1.0, 3.0]))).tolist()
      [0.5, 0.5]
    """
    count = gram.shape[0]
    return jnp.mean(jax.vmap(lambda bound: above(gram, jnp.zeros(count), bound))(jnp.eye(count)), axis=0)


def imtl_weights(gram: Float[Array, "terms terms"]) -> Float[Array, " terms"]:
    """Weights that sum to 1 and give the sum the same projection onto every gradient (IMTL-G, Liu et al. 2021).

    ``gram · v = |g|`` and ``w = v / Σ v``.

    Example:
      >>> imtl_weights(jnp.diag(jnp.array([1.0, 9.0]))).round(4).tolist()
      [0.75, 0.25]
    """
    found = jnp.linalg.pinv(gram, rtol=1e-6, hermitian=True) @ jnp.sqrt(jnp.diag(gram))
    total = jnp.sum(found)
    return jnp.where(jnp.abs(total) > 1e-12, found / jnp.where(total == 0, 1.0, total), 1 / gram.shape[0])


def aligned_weights(gram: Float[Array, "terms terms"]) -> Float[Array, " terms"]:
    """Gradients turned until their matrix has condition number 1, then averaged (Aligned-MTL, Senushkin et al. 2023).

    With ``gram = V diag(λ) Vᵀ``: ``w = √λ_min V diag(λ^-½) Vᵀ · 1 / terms``, over the λ above rounding.

    Example:
      >>> aligned_weights(jnp.diag(jnp.array([1.0, 4.0]))).round(4).tolist()
      [0.5, 0.25]
    """
    values, vectors = jnp.linalg.eigh(gram)
    kept = values > values[-1] * 1e-6
    smallest = jnp.min(jnp.where(kept, values, jnp.inf))
    scale = jnp.where(kept, jnp.sqrt(smallest / jnp.where(kept, values, 1.0)), 0.0)
    weights = vectors @ (scale * jnp.sum(vectors, axis=0)) / gram.shape[0]
    return jnp.where(values[-1] > 0, weights, 1 / gram.shape[0])


def cagrad_weights(gram: Float[Array, "terms terms"], c: Float[Array, ""] | float) -> Float[Array, " terms"]:
    """The direction that helps the worst term most within ``c |g₀|`` of the mean gradient ``g₀``.

    ``g₀ + c |g₀| g_w / |g_w|`` with ``w = argmin g_w·g₀ + c |g₀| |g_w|`` over the simplex, ``g_w = Σ w_i g_i`` (Liu et
    al. 2021, equation 4). The norm is ``min_t (|g_w|² / t + t) / 2``, so that w and t take turns, each exact.

    Example:
      >>> cagrad_weights(jnp.eye(2), 0.0).tolist()
      [0.5, 0.5]
    """
    count = gram.shape[0]
    mean = jnp.full(count, 1 / count)
    # In units of the mean gradient's norm all numbers are near 1.
    unit = jnp.maximum(jnp.mean(jnp.diag(gram)), 1e-30)
    scaled = gram / unit
    radius = c * jnp.sqrt(jnp.maximum(mean @ scaled @ mean, 0.0))

    def norm(w):
        return jnp.sqrt(jnp.maximum(w @ scaled @ w, 1e-12))

    def turn(_, w):
        # Multiplied by t / radius, which keeps the program well scaled.
        t = norm(w)
        return simplex(scaled, scaled @ mean * t / jnp.maximum(radius, 1e-6))

    w = jax.lax.fori_loop(0, ROUNDS, turn, mean)
    return mean + radius * w / norm(w)
