"""Snapshot ensembles."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.ensemble.posterior.draws import DRAW, NONE, check_draws, check_period, fused_draws


@register(
    "ensemble",
    paper="Huang et al. 2017, arXiv:1704.00109, equation 2",
    example=lambda problem: snapshots(2, period=2),
    neutral="its cycles change the rate of every step, and it has no strength to set to zero",
)
def snapshots(count: int = 5, period: int = 200, fusion: str = "mean", *, name: str = "ensemble.snapshots") -> Method:
    """Trains in cycles of a falling rate, keeps the parameters at the end of each and evaluates their fusion.

    Within a cycle of `period` steps the updates are multiplied by ``½ (cos(π · (step mod period) / period) + 1)``, from
    the full rate down to almost none. The last `count` ends are kept; until there is one, what learns now stands in
    for it. What is saved and served is what learns now.

    Args:
      count: how many snapshots.
      period: steps of a cycle.
      fusion: of the snapshots' predictions: ``"mean"``, ``"vote"`` or ``"product"``.
      name: the method's name.

    Raises:
      ValueError: fewer than one snapshot, an unknown fusion, a period below 1.

    Example:
      >>> snapshots(3, period=100).name
      'ensemble.snapshots'
    """
    check_draws(name, count, fusion)
    check_period(name, period)

    def memory(params, key):
        kept = jax.tree.map(lambda p: jnp.stack([p] * count), params)
        return {"params": kept, "count": jnp.int32(0), DRAW: NONE}

    def update(inner):
        def run(gradients, opt_state, params=None, *, event):
            updates, opt_state = inner.update(gradients, opt_state, params, event=event)
            share = 0.5 * (jnp.cos(jnp.pi * (event.step % period) / period) + 1)
            return jax.tree.map(lambda u: (share * u).astype(u.dtype), updates), opt_state

        return optax.GradientTransformationExtraArgs(inner.init, run)

    def after_step(state, event):
        own = state.memory[name]
        due = state.step % period == 0
        place = own["count"] % count
        kept = jax.tree.map(lambda k, p: jnp.where(due, k.at[place].set(p), k), own["params"], state.params)
        return state.remember(name, {**own, "params": kept, "count": own["count"] + due})

    def settle(state):
        own = state.memory[name]
        # The first draws are the snapshots there are; the others repeat them, so that each counts about alike.
        place = jnp.where(own["count"] > 0, own[DRAW] % jnp.clip(own["count"], 1, count), 0)
        drawn = (own[DRAW] >= 0) & (own["count"] > 0)
        params = jax.tree.map(lambda k, p: jnp.where(drawn, k[place], p), own["params"], state.params)
        return state.replace(params=params)

    return Method(
        name=name,
        memory=memory,
        update=update,
        after_step=after_step,
        settle=settle,
        lift=fused_draws(name, count, fusion),
    )
