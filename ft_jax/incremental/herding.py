"""Exemplars of every class whose mean is near the class's own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def herd(
    features: Float[Array, "rows width"],
    member: Bool[Array, " rows"],
    mean: Float[Array, " width"],
    count: Int[Array, ""],
) -> Int[Array, " rows"]:
    """The place of every row in a class's order of exemplars, and ``rows`` for those that are not chosen.

    Rebuffi et al. 2017, arXiv:1611.07725, algorithm 4: the k-th exemplar is the one with which the mean of the first k
    is nearest to the class's, so that the first of them are the best ones however many stay.

    Args:
      features: of the candidates.
      member: which of them are of the class.
      mean: of the class's features.
      count: exemplars to choose; all of the class where it has fewer.

    Example:
      >>> points = jnp.array([[0.0], [2.0], [9.0], [5.0]])
      >>> herd(points, jnp.array([True, True, False, True]), jnp.array([2.4]), jnp.int32(2)).tolist()
      [4, 0, 4, 1]
    """
    rows = features.shape[0]

    def one(k, chosen):
        total, places = chosen
        gaps = jnp.sum((mean - (total + features) / (k + 1)) ** 2, axis=1)
        left = member & (places == rows)
        pick = jnp.argmin(jnp.where(left, gaps, jnp.inf))
        found = left[pick]
        return total + jnp.where(found, features[pick], 0.0), places.at[pick].set(jnp.where(found, k, places[pick]))

    start = jnp.zeros(features.shape[1], features.dtype), jnp.full(rows, rows, jnp.int32)
    return jax.lax.fori_loop(0, jnp.minimum(count, jnp.sum(member)), one, start)[1]
