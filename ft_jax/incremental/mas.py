"""Memory aware synapses: weights held by how much the model's answers depend on them."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import counted
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.incremental.examples import examples
from ft_jax.incremental.importance import held, how_many, summed_over_examples


@register(
    "incremental",
    paper="Aljundi et al. 2018, arXiv:1711.09601, equations 3 and 4",
    example=lambda problem: mas(),
    neutral=Neutral({"weight": 0.0}),
)
def mas(weight: float = 1.0, *, name: str = "incremental.mas") -> Method:
    """Holds the model's weights where earlier tasks left them, each by how far it moves the model's answers.

    Adds the term ``weight · Σ_i importance_i (params_i - anchor_i)²``. When a task ends,
    ``importance ← importance + mean over examples of |∂ ‖logits‖² / ∂ params|`` and ``anchor ← params``. Labels say
    which examples and tokens count and nothing else, so the examples need no true ones.

    Args:
      weight: of the penalty, λ in the paper.
      name: the method's name; ``memory[name]`` is ``{"importance", "anchor"}``, like what learns of
        ``params["model"]``.

    Raises:
      ValueError: when a task ends, batches without labels, or a model without a head.

    Example:
      >>> mas(weight=0.5).hyper
      {'weight': 0.5}
    """

    def memory(params, key):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params["model"])
        return {"importance": zeros, "anchor": jax.tree.map(jnp.copy, params["model"])}

    def loss(inner):
        def penalised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            own = context.memory[name]
            value = held(own["importance"], params["model"], own["anchor"])
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return penalised

    def after_task(state, event):
        batches = examples(event.batches, ("labels",), leading=1)
        if batches is None:
            raise ValueError(
                f"{name} needs 'labels', which say what counts, but the batches that end the task have "
                f"{', '.join(event.batches)}; add them"
            )

        def length(model, example):
            _, outputs = event.loss({**state.params, "model": model}, example, event.context)
            if outputs.unembedding is None:
                raise ValueError(f"{name} reads the model's logits, and it has no head; give it one")
            counts = counted(example)
            squares = jnp.sum(jnp.square(outputs.logits), axis=-1)
            return jnp.sum(squares * jnp.where(counts.reshape(squares.shape) > 0, 1.0, 0.0))

        def sensitivity(example, number):
            return jax.tree.map(jnp.abs, jax.grad(length)(state.params["model"], example))

        model, own = state.params["model"], state.memory[name]
        sums, count = summed_over_examples(sensitivity, batches, model), how_many(batches)
        importance = jax.tree.map(lambda old, total: old + total / count, own["importance"], sums)
        return state.remember(name, {"importance": importance, "anchor": jax.tree.map(jnp.copy, model)})

    return Method(name=name, hyper={"weight": weight}, memory=memory, loss=loss, after_task=after_task)
