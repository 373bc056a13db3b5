"""Dynamic fine-tuning: supervised fine-tuning as a policy gradient would weigh it."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term, token_log_probabilities
from ft_jax.core.method import Method


@register(
    "rl",
    paper="Wu et al. 2025, arXiv:2508.05629, equation 9",
    example=lambda problem: dft(),
    neutral=Neutral({"power": 0.0}),
)
def dft(power: float = 1.0, *, term: str = "task", name: str = "rl.dft") -> Method:
    """Weighs every token by how likely it already is, so that unlikely ones don't dominate fine-tuning.

    Puts ``mean(-stop_gradient(p(label))^power · log p(label))`` in the place of the cross-entropy `term` of the loss
    inside.

    Args:
      power: 1 is the paper's; 0 is supervised fine-tuning.
      term: that it replaces.
      name: the method's name.

    Raises:
      ValueError: labels that are not of tokens.

    Example:
      >>> dft().hyper
      {'power': 1.0}
    """

    def loss(inner):
        def rescaled(params, batch, context):
            terms, outputs = inner(params, batch, context)
            labels = batch.get("labels")
            if labels is None or labels.ndim != 2:
                found = "no labels" if labels is None else f"labels {list(labels.shape)}"
                raise ValueError(
                    f"{name} needs the labels [batch, time] of tokens, but the batch has {found}; add them"
                )
            own = token_log_probabilities(outputs, jnp.maximum(labels, 0))
            likely = jax.lax.stop_gradient(jnp.exp(context.hyper[name]["power"] * own))
            return {**scale_term(terms, term, None), term: weighted_mean(-likely * own, batch)}, outputs

        return rescaled

    return Method(name=name, hyper={"power": power}, loss=loss, reads="examples")
