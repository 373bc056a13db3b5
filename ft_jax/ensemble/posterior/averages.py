"""Averages of the parameters along training: EMA and SWA."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.ensemble.posterior.draws import check_period


@register(
    "ensemble",
    paper="Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv:1703.01780",
    example=lambda problem: ema(0.9),
    neutral=Neutral({"decay": 0.0}),
)
def ema(decay: float = 0.999, *, name: str = "ensemble.ema") -> Method:
    """Evaluates and saves the exponential moving average of what learns; training goes on without it.

    After each step ``average ← d · average + (1 - d) · params`` with ``d = min(decay, (1 + step) / (10 + step))``, so
    that the beginning is soon forgotten. The average is float32.

    Args:
      decay: data in ``hyper``.
      name: the method's name; the average is ``memory[name]``.

    Raises:
      ValueError: a decay outside [0, 1).

    Example:
      >>> ema(0.99).hyper
      {'decay': 0.99}
    """
    if not 0 <= decay < 1:
        raise ValueError(f"{name} has decay {decay}; give a number from 0 to below 1")

    def after_step(state, event):
        step = state.step.astype(jnp.float32)
        rate = jnp.minimum(state.hyper[name]["decay"], (1 + step) / (10 + step))
        moved = jax.tree.map(lambda a, p: rate * a + (1 - rate) * p.astype(a.dtype), state.memory[name], state.params)
        return state.remember(name, moved)

    def settle(state):
        return state.replace(params=_like(state.memory[name], state.params))

    return Method(
        name=name,
        hyper={"decay": decay},
        memory=lambda params, key: wide(params),
        after_step=after_step,
        settle=settle,
    )


@register(
    "ensemble",
    paper="Izmailov et al. 2018, arXiv:1803.05407, algorithm 1",
    example=lambda problem: swa(period=1),
    neutral="it changes what is evaluated and saved, and nothing that trains",
)
def swa(period: int = 100, start: int = 0, *, name: str = "ensemble.swa") -> Method:
    """Evaluates and saves the mean of the parameters at the end of every period; training goes on without it.

    After step ``start + period``, ``start + 2 · period``, … ``average ← (n · average + params) / (n + 1)``; before the
    first, what learns itself is evaluated. The paper collects at a high constant rate or at the low points of a
    cyclic one.

    Args:
      period: steps between two collected parameters.
      start: the step from which to collect.
      name: the method's name.

    Raises:
      ValueError: a period below 1 or a negative start.

    Example:
      >>> swa(period=10, start=100).name
      'ensemble.swa'
    """
    check_period(name, period, start)

    def after_step(state, event):
        own = state.memory[name]
        due = collects(state.step, period, start)
        share = jnp.where(due, 1.0 / (own["count"] + 1), 0.0)
        average = jax.tree.map(lambda a, p: a + share * (p.astype(a.dtype) - a), own["average"], state.params)
        return state.remember(name, {"average": average, "count": own["count"] + due})

    def settle(state):
        own = state.memory[name]
        average = _like(own["average"], state.params)
        return state.replace(params=jax.tree.map(lambda a, p: jnp.where(own["count"] > 0, a, p), average, state.params))

    return Method(
        name=name,
        memory=lambda params, key: {"average": wide(params), "count": jnp.int32(0)},
        after_step=after_step,
        settle=settle,
    )


def collects(step, period: int, start: int):
    """Whether the parameters after `step` updates are collected."""
    return (step > start) & ((step - start) % period == 0)


def wide(params):
    """A float32 copy."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)


def _like(average, params):
    return jax.tree.map(lambda a, p: a.astype(p.dtype), average, params)
