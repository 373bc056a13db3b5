"""Learning without forgetting: the model before the task teaches the model in it."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import kl_divergence
from ft_jax.core.method import Method


@register(
    "incremental",
    paper="Li and Hoiem 2016, arXiv:1606.09282, equation 2",
    example=lambda problem: lwf(),
    neutral=Neutral({"weight": 0.0}),
)
def lwf(weight: float = 1.0, temperature: float = 2.0, *, name: str = "incremental.lwf") -> Method:
    """Keeps the answers to the new task's inputs near those of the model that ended the task before.

    Adds ``weight · temperature² KL(softmax(old / temperature) || softmax(new / temperature))``, the mean over all that
    counts; with a fixed old model, the paper's cross-entropy of softened answers up to a constant. 0 in the first
    task, and left out of evaluations. All logits of the one head take part.

    Args:
      weight: λ in the paper.
      temperature: 2 in the paper.
      name: the method's name; ``memory[name]`` is ``{"params": what learns, as the last task left it, "tasks"}``.

    Example:
      >>> lwf(weight=0.5).hyper
      {'weight': 0.5, 'temperature': 2.0}
    """

    def memory(params, key):
        return {"params": jax.tree.map(jnp.copy, params), "tasks": jnp.int32(0)}

    def loss(inner):
        def taught(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if not context.train or outputs.unembedding is None:
                return terms, outputs
            own, numbers = context.memory[name], context.hyper[name]
            _, old = inner(own["params"], batch, context)
            weights = shares(batch, outputs.hidden.shape[:-1])
            value = kl_divergence(outputs, old, numbers["temperature"], weights, float(weights.shape[0]))
            return {**terms, name: numbers["weight"] * jnp.where(own["tasks"] > 0, value, 0.0)}, outputs

        return taught

    def after_task(state, event):
        params = jax.tree.map(jnp.copy, state.params)
        return state.remember(name, {"params": params, "tasks": state.memory[name]["tasks"] + 1})

    hyper = {"weight": weight, "temperature": temperature}
    return Method(name=name, hyper=hyper, memory=memory, loss=loss, after_task=after_task, reads="examples")
