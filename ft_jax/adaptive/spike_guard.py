"""Steps whose gradient is far out of line, skipped or clipped."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method

ACTIONS = ("skip", "clip")


@register(
    "adaptive",
    paper="Chowdhery et al. 2022, arXiv:2204.02311, section 5.1 (skipped spikes), by a rolling z-score",
    example=lambda problem: spike_guard(window=4, warmup=2),
    neutral=Neutral({"threshold": 1e30}),
)
def spike_guard(
    threshold: float = 6.0,
    action: str = "skip",
    window: int = 100,
    warmup: int = 20,
    *,
    name: str = "adaptive.spike_guard",
) -> Method:
    """Skips or clips a step whose gradient norm is a spike among the last ones.

    With mean and standard deviation of the last `window` norms, a norm above ``limit = mean + threshold · deviation``
    is a spike, once `warmup` norms are there. ``"skip"`` leaves parameters and the optimizer as they are; ``"clip"``
    scales the gradient to the limit. A norm that is not finite is always skipped. What enters the window is the norm,
    of a spike the limit, so that a level that has truly risen is learned. The deviation is at least 1% of the mean.

    Args:
      threshold: standard deviations above the mean.
      action: what is done with a spike.
      window: norms that are remembered.
      warmup: norms before the first decision.
      name: the method's name; the metrics report ``name.skipped`` and ``name.clipped``, the counts so far.

    Raises:
      ValueError: another action, or a warmup that does not fit into the window.

    Example:
      >>> spike_guard(action="clip").hyper
      {'threshold': 6.0}
    """
    if action not in ACTIONS:
        raise ValueError(f"{name} got action {action!r}; use 'skip' or 'clip'")
    if not 2 <= warmup <= window:
        raise ValueError(f"{name} has a warmup of {warmup} in a window of {window} norms; give 2 to {window}")

    def memory(params, key):
        return {
            "norms": jnp.zeros(window),
            "seen": jnp.int32(0),
            "skipped": jnp.int32(0),
            "clipped": jnp.int32(0),
        }

    def verdict(own, norm, threshold):
        """The limit, and whether the step is skipped and clipped."""
        there = jnp.arange(window) < own["seen"]
        count = jnp.maximum(jnp.sum(there), 1)
        mean = jnp.sum(jnp.where(there, own["norms"], 0.0)) / count
        spread = jnp.sqrt(jnp.sum(jnp.where(there, (own["norms"] - mean) ** 2, 0.0)) / count)
        limit = mean + threshold * jnp.maximum(spread, 0.01 * mean)
        spike = (own["seen"] >= warmup) & (norm > limit)
        broken = ~jnp.isfinite(norm)
        skipped = broken | (spike if action == "skip" else False)
        return limit, skipped, spike & ~skipped

    def update(inner):
        def guarded(gradients, state, params=None, *, event):
            norm = optax.global_norm(event.gradient())
            limit, skipped, clipped = verdict(event.memory[name], norm, event.hyper[name]["threshold"])
            factor = jnp.where(clipped, limit / norm, 1.0)
            finite = jax.tree.map(lambda g: jnp.where(skipped, 0.0, g * factor).astype(g.dtype), gradients)
            updates, after = inner.update(finite, state, params, event=event)
            updates = jax.tree.map(lambda u: jnp.where(skipped, jnp.zeros_like(u), u), updates)
            return updates, jax.tree.map(lambda old, new: jnp.where(skipped, old, new), state, after)

        return optax.GradientTransformationExtraArgs(inner.init, guarded)

    def after_step(state, event):
        own, norm = state.memory[name], optax.global_norm(event.gradients)
        limit, skipped, clipped = verdict(own, norm, state.hyper[name]["threshold"])
        enters, entry = jnp.isfinite(norm), jnp.where(skipped | clipped, limit, norm)
        place = own["seen"] % window
        new = {
            "norms": own["norms"].at[place].set(jnp.where(enters, entry, own["norms"][place])),
            "seen": own["seen"] + enters.astype(jnp.int32),
            "skipped": own["skipped"] + skipped.astype(jnp.int32),
            "clipped": own["clipped"] + clipped.astype(jnp.int32),
        }
        return state.remember(name, new)

    return Method(
        name=name,
        hyper={"threshold": threshold},
        memory=memory,
        update=update,
        after_step=after_step,
        report=lambda state: {f"{name}.{count}": state.memory[name][count] for count in ("skipped", "clipped")},
    )
