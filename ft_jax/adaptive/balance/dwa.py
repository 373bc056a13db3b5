"""Weights of terms by how fast each falls."""

import jax
import jax.numpy as jnp

from ft_jax.adaptive.balance.terms import weighed_terms
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="Liu, Johns and Davison 2019, arXiv:1803.10704, equation 7",
    example=lambda problem: dwa(("task",), period=2),
    neutral=Neutral({}),
)
def dwa(terms: tuple[str, ...], period: int = 100, temperature: float = 2.0, *, name: str = "adaptive.dwa") -> Method:
    """Weighs terms by their rate of descent: what falls slowly counts more (dynamic weight average).

    ``w = n · softmax(r / temperature)`` of n terms, ``r_i = L_i(t-1) / L_i(t-2)`` of the means over the last two
    periods; 1 until there are two.

    Args:
      terms: the names of those to weigh.
      period: steps that are averaged, an epoch in the paper.
      temperature: a high one makes the weights equal.
      name: the method's name; ``memory[name]["weights"]`` are the weights now, which the metrics report.

    Raises:
      ValueError: no terms, or a period below 1.
      KeyError: in the first step, a term that the loss does not have.

    Example:
      >>> dwa(("task", "depth"), period=50).hyper
      {'temperature': 2.0}
    """
    terms = tuple(terms)
    if not terms or period < 1:
        raise ValueError(f"{name} has terms {terms} and a period of {period} steps; name terms and give at least 1")
    count = len(terms)

    def memory(params, key):
        return {
            "weights": jnp.ones(count),
            "sums": jnp.zeros(count),
            "last": jnp.zeros(count),
            "steps": jnp.int32(0),
        }

    def after_step(state, event):
        own = state.memory[name]
        sums = own["sums"] + jnp.stack([event.terms[term] for term in terms]) / own["weights"]
        steps = own["steps"] + 1
        ends, had = steps % period == 0, steps > period
        mean = sums / period
        ratio = mean / jnp.where(own["last"] == 0, 1.0, own["last"])
        weights = count * jax.nn.softmax(ratio / state.hyper[name]["temperature"])
        new = {
            "weights": jnp.where(ends & had, weights, own["weights"]),
            "sums": jnp.where(ends, 0.0, sums),
            "last": jnp.where(ends, mean, own["last"]),
            "steps": steps,
        }
        return state.remember(name, new)

    return Method(
        name=name,
        hyper={"temperature": temperature},
        memory=memory,
        loss=weighed_terms(name, terms),
        weighs=terms,
        after_step=after_step,
        report=lambda state: {f"{name}.{term}": state.memory[name]["weights"][at] for at, term in enumerate(terms)},
    )
