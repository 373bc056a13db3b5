"""SWAG: a Gaussian fitted to the parameters along training."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import digest, path_of
from ft_jax.ensemble.posterior.averages import collects, wide
from ft_jax.ensemble.posterior.draws import DRAW, NONE, check_draws, check_period, fused_draws


@register(
    "ensemble",
    paper="Maddox et al. 2019, arXiv:1902.02476, algorithm 1 and equation 1",
    example=lambda problem: swag(samples=2, rank=2, period=1),
    neutral="it changes what is evaluated and saved, and nothing that trains",
)
def swag(
    samples: int = 30,
    rank: int = 20,
    period: int = 100,
    start: int = 0,
    fusion: str = "mean",
    *,
    scale: float = 1.0,
    name: str = "ensemble.swag",
) -> Method:
    """Evaluates the fusion of draws from a Gaussian that is fitted to the parameters along training.

    Every `period` steps from `start`, the running means of ``params`` and ``params²`` take the parameters in, and the
    last `rank` deviations ``D = params - mean`` are kept. A draw is

        ``mean + √scale · (√(mean of squares - mean²) · z₁ / √2 + D z₂ / √(2 (K - 1)))``

    with ``z₁, z₂`` standard normal and K the deviations so far, at most `rank`. Saved and served is the mean (SWA).
    Until two parameters are collected, draws have no spread.

    Args:
      samples: draws in an evaluation.
      rank: deviations that are kept, each as large as what learns.
      period: steps between two collected parameters.
      start: the step from which to collect.
      fusion: of the draws' predictions: ``"mean"``, ``"vote"`` or ``"product"``.
      scale: of the draws' variance, data in ``hyper``.
      name: the method's name.

    Raises:
      ValueError: fewer than one draw or a rank below 2, an unknown fusion, a period below 1.

    Example:
      >>> swag(samples=10, scale=0.5).hyper
      {'scale': 0.5}
    """
    check_draws(name, samples, fusion)
    check_period(name, period, start)
    if rank < 2:
        raise ValueError(f"{name} keeps {rank} deviations; a spread needs at least 2")

    def memory(params, key):
        deviations = jax.tree.map(lambda p: jnp.zeros((rank, *p.shape), jnp.float32), params)
        square = jax.tree.map(jnp.square, wide(params))
        own = {"mean": wide(params), "square": square, "deviations": deviations, "count": jnp.int32(0), DRAW: NONE}
        return {**own, "seed": jax.random.key_data(key)}

    def after_step(state, event):
        own = state.memory[name]
        due = collects(state.step, period, start)
        share = jnp.where(due, 1.0 / (own["count"] + 1), 0.0)
        mean = jax.tree.map(lambda m, p: m + share * (p - m), own["mean"], wide(state.params))
        square = jax.tree.map(lambda s, p: s + share * (p * p - s), own["square"], wide(state.params))

        def kept(d, p, m):
            return jnp.where(due, d.at[own["count"] % rank].set(p - m), d)

        deviations = jax.tree.map(kept, own["deviations"], wide(state.params), mean)
        moved = {"mean": mean, "square": square, "deviations": deviations, "count": own["count"] + due}
        return state.remember(name, {**own, **moved})

    def settle(state):
        own, strength = state.memory[name], jnp.sqrt(state.hyper[name]["scale"])
        drawn, several = own[DRAW] >= 0, own["count"] >= 2
        key = jax.random.fold_in(jax.random.wrap_key_data(own["seed"]), own[DRAW])
        deviations = jnp.minimum(own["count"], rank)
        along = jax.random.normal(jax.random.fold_in(key, 0), (rank,)) * (jnp.arange(rank) < deviations)
        along = along / jnp.sqrt(2.0 * jnp.maximum(deviations - 1, 1))

        def draw(path, mean, square, d, p):
            across = jax.random.normal(jax.random.fold_in(key, digest(path_of(path))), mean.shape)
            spread = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-30) / 2) * across
            noise = strength * (spread + jnp.tensordot(along, d, axes=1))
            value = mean + jnp.where(drawn & several, noise, 0.0)
            return jnp.where(own["count"] > 0, value, p.astype(jnp.float32)).astype(p.dtype)

        trees = (own["mean"], own["square"], own["deviations"], state.params)
        return state.replace(params=jax.tree_util.tree_map_with_path(draw, *trees))

    return Method(
        name=name,
        hyper={"scale": scale},
        memory=memory,
        after_step=after_step,
        settle=settle,
        lift=fused_draws(name, samples, fusion),
    )
