"""Every ordered pair of methods: whether it composes, and training it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from laws.problem import NAMES, batch_of, example, problem, program_of

from ft_jax.core import compose

UNORDERED = tuple(itertools.combinations(NAMES, 2))
ORDERED = tuple(itertools.permutations(NAMES, 2))


@dataclasses.dataclass(frozen=True)
class Pair:
    """An ordered pair, outermost first, and the sentence it was refused with, if it was."""

    outer: str
    inner: str
    refusal: str | None


def try_pair(outer: str, inner: str):
    """``(Pair, program or None)``: composing is the only moment at which a pair may be refused."""
    try:
        program = program_of(compose(example(outer, inner), example(inner)))
    except ValueError as error:
        return Pair(outer, inner, str(error)), None
    return Pair(outer, inner, None), program


def trace(program, outer: str, inner: str):
    """The shapes of one step, nothing computed."""
    state = jax.eval_shape(program.init, problem().params, jax.random.key(3))
    return state, jax.eval_shape(program.step, state, batch_of(outer, inner))


def descends(history) -> bool:
    """Whether the terms that the first step had fall, taken together.

    Terms that begin at zero (a penalty, a replay from an empty buffer) are left out: they can only rise.
    """
    terms = [term for term in history[0] if term not in ("loss", "gradient_norm") and jnp.any(history[0][term] != 0)]
    first, last = (sum(jnp.mean(history[step][term]) for term in terms) for step in (0, -1))
    return bool(last < first)
