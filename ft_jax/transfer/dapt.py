"""Continued pretraining on a domain before its task."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Loss, Method
from ft_jax.transfer.backbone import causal_language_modelling, seen_from, with_parameters
from ft_jax.transfer.unlabelled import LAYOUT, beside_itself, part, without_unlabelled


@register(
    "transfer",
    paper="Gururangan et al. 2020, arXiv:2004.10964, section 3",
    example=lambda problem: dapt(causal_language_modelling(problem.apply), steps=2),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"steps": 0.0}, batch=without_unlabelled),
)
def dapt(backbone: Loss, steps: float, *, name: str = "transfer.dapt") -> Method:
    """Domain-adaptive pretraining: a backbone loss on unlabelled text of the target domain first, then the task.

    Until step `steps` the loss is ``backbone(batch["unlabelled"])`` alone, from then on the task's: every other term
    is multiplied by 0 before. Both phases are one run of one compiled program, and ``hyper["steps"]`` moves the
    border; trials that each have a border of their own (`ft_jax.tuning.population`) compute both phases all the time.
    The batch is `ft_jax.transfer.joint`'s; to train on both at once use that. Where the phases need other
    batch sizes or rates, make two runs: the first with ``Experiment(loss=lambda model:
    masked_language_modelling(model.apply))``.

    Args:
      backbone: a loss on the unlabelled part, see `ft_jax.transfer.joint`.
      steps: of continued pretraining, data in ``hyper``.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: a negative number of steps; a backbone loss with a number called ``steps``.

    Example:
      >>> from ft_jax.transfer import masked_language_modelling
      >>> dapt(masked_language_modelling(None), steps=500).hyper
      {'steps': 500}
    """
    if steps < 0:
        raise ValueError(f"{name} pretrains for {steps} steps; give it at least 0")
    numbers = getattr(backbone, "hyper", {})
    if "steps" in numbers:
        raise ValueError(f"{name} has a number 'steps' of its own; call the backbone loss's number another name")

    def loss(inner):
        def phased(params, batch, context):
            terms, outputs = inner(params, batch, context)
            unlabelled = part(batch, context, name)
            if unlabelled is None or not context.train:
                return terms, outputs
            hyper = context.hyper[name]
            pretraining = context.step < hyper["steps"]
            seen = seen_from(context, name)

            def pretrained(params):
                return sum(backbone(params, unlabelled, seen)[0].values(), start=jnp.float32(0))

            if getattr(backbone, "couples", False):
                # What couples examples over micro-batches can't stand in a branch.
                value = jnp.where(pretraining, pretrained(params), 0.0)
            else:
                value = jax.lax.cond(pretraining, pretrained, lambda params: jnp.float32(0), params)
            kept = {term: jnp.where(pretraining, 0.0, own) for term, own in terms.items()}
            return {**kept, name: value}, outputs

        return phased

    return Method(
        name=name,
        hyper={"steps": steps, **numbers},
        surgery=lambda params, key: with_parameters(params, backbone, name, key),
        loss=loss,
        gives=LAYOUT,
    )
