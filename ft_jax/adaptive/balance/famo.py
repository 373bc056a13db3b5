"""Weights of terms that make all of them fall at one rate, without a gradient for each."""

import jax
import jax.numpy as jnp

from ft_jax.adaptive.balance.terms import weighed_terms
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="Liu et al. 2023, arXiv:2306.03792, algorithm 1",
    example=lambda problem: famo(("task",)),
    neutral=Neutral({}),
)
def famo(terms: tuple[str, ...], rate: float = 0.025, decay: float = 0.001, *, name: str = "adaptive.famo") -> Method:
    """Weighs positive terms so that the one that falls least, relative to itself, falls most: one gradient a step.

    With ``z = softmax(ξ)`` the step descends ``n · Σ c z_i / L_i · L_i``, ``c = 1 / Σ z_i / L_i``. What came of it,
    ``δ_i = log L_i(before) - log L_i(after)``, moves ``ξ ← ξ - rate · (Jᵀ δ + decay · ξ)``, J the softmax's Jacobian.
    ``L_i(after)`` is the next step's, of its own batch, so that nothing is run twice, and the weights are of the losses
    before. The factor n makes equal terms the plain step.

    Args:
      terms: the names of those to weigh; positive, such as cross-entropies.
      rate: of the ξ.
      decay: pulls the ξ to 0, γ in the paper.
      name: the method's name; ``memory[name]["weights"]`` are the weights now, which the metrics report.

    Raises:
      ValueError: no terms.
      KeyError: in the first step, a term that the loss does not have.

    Example:
      >>> famo(("task", "depth")).hyper
      {'rate': 0.025, 'decay': 0.001}
    """
    terms = tuple(terms)
    if not terms:
        raise ValueError(f"{name} has no terms to weigh; name those of the loss")
    count = len(terms)

    def memory(params, key):
        return {"weights": jnp.ones(count), "logits": jnp.zeros(count), "last": jnp.zeros(count), "seen": jnp.int32(0)}

    def after_step(state, event):
        own, numbers = state.memory[name], state.hyper[name]
        values = jnp.stack([event.terms[term] for term in terms]) / own["weights"]
        values = jnp.maximum(values, 1e-8)
        shares, back = jax.vjp(jax.nn.softmax, own["logits"])
        fell = jnp.where(own["seen"] > 0, jnp.log(jnp.maximum(own["last"], 1e-8)) - jnp.log(values), 0.0)
        logits = own["logits"] - numbers["rate"] * (back(fell)[0] + numbers["decay"] * own["logits"])
        shares = jax.nn.softmax(logits) / values
        new = {"weights": count * shares / jnp.sum(shares), "logits": logits, "last": values, "seen": own["seen"] + 1}
        return state.remember(name, new)

    return Method(
        name=name,
        hyper={"rate": rate, "decay": decay},
        memory=memory,
        loss=weighed_terms(name, terms),
        weighs=terms,
        after_step=after_step,
        report=lambda state: {f"{name}.{term}": state.memory[name]["weights"][at] for at, term in enumerate(terms)},
    )
