"""Evaluation as the fusion of several draws of one state: what dropout, snapshots and SWAG share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.mesh import mapped
from ft_jax.core.program import Evaluation, Program
from ft_jax.ensemble.fusion.rules import FUSIONS

DRAW = "draw"
"""The number in a method's memory that says which draw is to be evaluated."""

NONE = jnp.int32(-1)
"""No draw: the state as training, saving and serving see it."""


def fused_draws(name: str, count: int, fusion: str) -> Callable[[Program, Any], Program]:
    """A lift: evaluates draws ``0 … count - 1`` at once, ``memory[name]["draw"]`` set, and fuses the predictions."""

    def lift(program: Program, build) -> Program:
        def evaluate(state, batch):
            def one(draw):
                own = state.memory[name]  # With an axis of members where a lift inside has them.
                memory: Mapping[str, Any] = {**own, DRAW: jnp.broadcast_to(draw, jnp.shape(own[DRAW]))}
                return program.evaluate(state.remember(name, memory), batch)

            terms, predictions, weights = mapped(one, count)(jnp.arange(count))
            terms = jax.tree.map(lambda term: jnp.mean(term, axis=0), terms)
            fused = None if predictions is None else FUSIONS[fusion](predictions)
            return Evaluation(terms, fused, weights[0])

        return dataclasses.replace(program, evaluate=evaluate)

    return lift


def check_draws(name: str, count: int, fusion: str) -> None:
    """Refuses fewer than one draw and unknown fusions.

    Raises:
      ValueError: naming the method.
    """
    if count < 1:
        raise ValueError(f"{name} evaluates {count} draws; give it at least 1")
    if fusion not in FUSIONS:
        raise ValueError(f"{name} can't fuse by {fusion!r}; use {', '.join(map(repr, FUSIONS))}")


def check_period(name: str, period: int, start: int = 0) -> None:
    """Refuses periods below a step and starts before the first.

    Raises:
      ValueError: naming the method.
    """
    if period < 1 or start < 0:
        raise ValueError(f"{name} collects every {period} steps from step {start}; give at least 1 and at least 0")
