"""Elastic weight consolidation."""

import math

import jax
import jax.numpy as jnp

from ft_jax.core.batches import summed
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.mesh import mapped
from ft_jax.core.method import Method
from ft_jax.core.state import Batch, Context
from ft_jax.incremental.examples import examples

TOGETHER = 8
"""Examples whose gradients are held at once while the Fisher information is computed."""


@register(
    "incremental",
    paper="Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3; Schwarz et al. 2018, arXiv:1805.06370 (online EWC)",
    example=lambda problem: ewc(),
    neutral=Neutral({"weight": 0.0}),
)
def ewc(weight: float = 1.0, decay: float = 1.0, empirical: bool = False, *, name: str = "incremental.ewc") -> Method:
    """Holds the model's weights where earlier tasks left them, each by how much those tasks depended on it.

    Adds the term ``weight / 2 · Σ_i fisher_i (params_i - anchor_i)²`` over the learning leaves of
    ``params["model"]``; with an adapter these are the adapter's. Leaves of other methods are left alone:
    the plain loss of a task, whose curvature this is, does not read them.

    When a task ends, ``fisher ← decay · fisher + mean over examples of (∂ log p(labels | example) / ∂ params)²``
    and ``anchor ← params``. Over several tasks that is one quadratic around the latest parameters (Huszár
    2017, arXiv:1712.03847); ``decay < 1`` forgets old tasks and is online EWC. A text's log-probability is
    the sum over its tokens, each times its weight. Examples whose weights are all 0 don't count; of episodes
    all examples do, of preferences the chosen answers.

    Args:
      weight: the penalty's, λ in the paper.
      decay: of the earlier tasks' Fisher information, γ in online EWC.
      empirical: take the labels of the data and not, as the Fisher information is defined, labels sampled
        from the model. The default samples: a model that fits its training labels has small gradients there
        and the empirical matrix vanishes (Kunstner et al. 2019, arXiv:1905.12558). Avalanche's EWC is empirical.
      name: the method's name; ``memory[name]`` is ``{"fisher", "anchor"}``, each like the learning leaves; the
        Fisher information is float32.

    Raises:
      ValueError: when a task ends, with batches that have no labels, or the model has no head to sample them
        from.

    Example:
      >>> ewc(weight=100.0, decay=0.9).hyper
      {'weight': 100.0, 'decay': 0.9}
    """

    def memory(params, key):
        fisher = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params["model"])
        return {"fisher": fisher, "anchor": _copy(params["model"])}

    def loss(inner):
        def penalised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            own = context.memory[name]

            def pull(f, p, a):
                return jnp.sum(f * jnp.square(p.astype(jnp.float32) - a.astype(jnp.float32)))

            pulls = jax.tree.map(pull, own["fisher"], params["model"], own["anchor"])
            value = sum(jax.tree.leaves(pulls), start=jnp.float32(0))
            return {**terms, name: context.hyper[name]["weight"] / 2 * value}, outputs

        return penalised

    def after_task(state, event):
        sample = None if empirical else event.context.key_for(name)
        batches = examples(event.batches, ("labels",), leading=1)
        if batches is None:
            raise ValueError(
                f"{name} needs 'labels', but the batches that end the task have {', '.join(event.batches)}; add them"
            )
        new = fisher_information(event.loss, state.params, batches, event.context, sample)
        decay = state.hyper[name]["decay"]
        fisher = jax.tree.map(lambda f, n: decay * f + n, state.memory[name]["fisher"], new)
        return state.remember(name, {"fisher": fisher, "anchor": _copy(state.params["model"])})

    hyper = {"weight": weight, "decay": decay}
    return Method(name=name, hyper=hyper, memory=memory, loss=loss, after_task=after_task)


def fisher_information(loss, params, batches: Batch, context: Context, key: jax.Array | None):
    """The diagonal of the Fisher information of the learning leaves of ``params["model"]``.

    ``mean over examples of (∂ log p(labels | example) / ∂ params)²``, one example's gradient at a time.

    Args:
      loss: whose term is ``-Σ weights · log p(label) / total``, such as `ft_jax.core.losses.supervised`.
      params: the tree that learns.
      batches: plain examples with ``labels``, fields ``[count, batch, ...]``.
      context: as the loss sees it.
      key: samples the labels from the model; None takes those of the data.

    Returns:
      A tree like ``params["model"]``, float32.

    Raises:
      ValueError: a model without a head, whose labels can't be sampled.
    """
    labels = batches["labels"]
    count = labels.shape[0] * labels.shape[1]
    together = math.gcd(labels.shape[1], TOGETHER)
    pieces = jax.tree.map(lambda x: x.reshape(-1, together, 1, *x.shape[2:]), dict(batches))
    model = params["model"]

    def gradient(example, index):

        def negative(model):
            terms, outputs = loss({**params, "model": model}, summed(example), context)
            return sum(terms.values(), start=jnp.float32(0)), outputs

        if key is not None:
            outputs = negative(model)[1]
            example["labels"] = _sample(outputs, example["labels"], jax.random.fold_in(key, index))
        return jax.grad(negative, has_aux=True)(model)[0]

    def body(sums, piece):
        example, index = piece
        gradients = mapped(gradient, together)(example, index)
        add = lambda total, g: total + jnp.sum(jnp.square(g.astype(jnp.float32)), axis=0)  # noqa: E731
        return jax.tree.map(add, sums, gradients), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), model)
    sums, _ = jax.lax.scan(body, zeros, (pieces, jnp.arange(count).reshape(-1, together)))
    weights = jnp.where(labels >= 0, batches.get("weights", jnp.ones(labels.shape)), 0.0)
    counted = jnp.sum(jnp.any(weights.reshape(count, -1) != 0, axis=1))
    return jax.tree.map(lambda total: total / jnp.maximum(counted, 1), sums)


def _sample(outputs, labels, key):
    if outputs.unembedding is None:
        raise ValueError("the model has no head to sample labels from; use incremental.ewc with empirical=True")
    sampled = jax.random.categorical(key, jax.lax.stop_gradient(outputs.logits))
    return jnp.where(labels >= 0, sampled, labels)


def _copy(tree):
    # Not the same arrays: the step gives its state's buffers away, and one buffer can't be given twice.
    return jax.tree.map(jnp.copy, tree)
