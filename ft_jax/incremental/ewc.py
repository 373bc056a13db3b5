"""Elastic weight consolidation."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import summed
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.state import Batch, Context
from ft_jax.incremental.examples import examples
from ft_jax.incremental.importance import held, how_many, summed_over_examples

FISHERS = ("sampled", "empirical", "exact")
"""Whose labels the Fisher information is made with, see `ewc`."""


@register(
    "incremental",
    paper="Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3; Schwarz et al. 2018, arXiv:1805.06370 (online EWC)",
    example=lambda problem: ewc(),
    neutral=Neutral({"weight": 0.0}),
)
def ewc(weight: float = 1.0, decay: float = 1.0, fisher: str = "sampled", *, name: str = "incremental.ewc") -> Method:
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
      fisher: whose labels the squared gradients are of. ``"exact"`` weighs every class by its probability, as the
        Fisher information is defined, at as many gradients an example as there are classes: the best of the ways that
        van de Ven 2025 (arXiv:2502.11756) compares. ``"sampled"`` draws one label from the model for each example.
        ``"empirical"`` takes the data's: a model that fits them has small gradients there and its matrix vanishes
        (Kunstner et al. 2019, arXiv:1905.12558).
      name: the method's name; ``memory[name]`` is ``{"fisher", "anchor"}``, each like the learning leaves; the
        Fisher information is float32.

    Raises:
      ValueError: an unknown `fisher`; when a task ends, with batches that have no labels, the model has no head to
        sample them from, or exactly labels of which an example has several, as of tokens.

    Example:
      >>> ewc(weight=100.0, decay=0.9).hyper
      {'weight': 100.0, 'decay': 0.9}
    """

    if fisher not in FISHERS:
        raise ValueError(f"{name} got fisher={fisher!r}; use one of {', '.join(map(repr, FISHERS))}")

    def memory(params, key):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params["model"])
        return {"fisher": zeros, "anchor": _copy(params["model"])}

    def loss(inner):
        def penalised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            own = context.memory[name]
            value = held(own["fisher"], params["model"], own["anchor"])
            return {**terms, name: context.hyper[name]["weight"] / 2 * value}, outputs

        return penalised

    def after_task(state, event):
        batches = examples(event.batches, ("labels",), leading=1)
        if batches is None:
            raise ValueError(
                f"{name} needs 'labels', but the batches that end the task have {', '.join(event.batches)}; add them"
            )
        key, decay = event.context.key_for(name), state.hyper[name]["decay"]
        new = fisher_information(event.loss, state.params, batches, event.context, key, fisher)
        kept = jax.tree.map(lambda f, n: decay * f + n, state.memory[name]["fisher"], new)
        return state.remember(name, {"fisher": kept, "anchor": _copy(state.params["model"])})

    hyper = {"weight": weight, "decay": decay}
    return Method(name=name, hyper=hyper, memory=memory, loss=loss, after_task=after_task)


def fisher_information(loss, params, batches: Batch, context: Context, key: jax.Array, fisher: str = "sampled"):
    """The diagonal of the Fisher information of the learning leaves of ``params["model"]``.

    ``mean over examples of (∂ log p(labels | example) / ∂ params)²``, one example's gradient at a time.

    Args:
      loss: whose term is ``-Σ weights · log p(label) / total``, such as `ft_jax.core.losses.supervised`.
      params: the tree that learns.
      batches: plain examples with ``labels``, fields ``[count, batch, ...]``.
      context: as the loss sees it.
      key: samples the labels from the model.
      fisher: see `ewc`.

    Returns:
      A tree like ``params["model"]``, float32.

    Raises:
      ValueError: a model without a head, whose labels can't be sampled; several labels an example, all of whose
        combinations are too many to be weighed.
    """
    model = params["model"]
    if fisher == "exact" and batches["labels"].ndim > 2:
        raise ValueError(
            f"fisher='exact' weighs every label of an example, and these have {batches['labels'].shape[2:]} labels "
            "each; use fisher='sampled'"
        )

    def negative(model, example):
        terms, outputs = loss({**params, "model": model}, summed(example), context)
        return sum(terms.values(), start=jnp.float32(0)), outputs

    def squared(example):
        gradient, _ = jax.grad(negative, has_aux=True)(model, example)
        return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)), gradient)

    def sampled(example, number):
        outputs = negative(model, example)[1]
        return squared({**example, "labels": _sample(outputs, example["labels"], jax.random.fold_in(key, number))})

    def exact(example, number):
        logits = _logits(negative(model, example)[1])
        p, label = jax.nn.softmax(logits[0]), example["labels"]

        def weighed(sums, at):
            found = squared({**example, "labels": jnp.where(label >= 0, at, label)})
            return jax.tree.map(lambda total, g: total + p[at] * g, sums, found), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), model)
        return jax.lax.scan(weighed, zeros, jnp.arange(len(p), dtype=label.dtype))[0]

    ways = {"sampled": sampled, "empirical": lambda example, number: squared(example), "exact": exact}
    sums = summed_over_examples(ways[fisher], batches, model)
    count = how_many(batches)
    return jax.tree.map(lambda total: total / count, sums)


def _logits(outputs):
    if outputs.unembedding is None:
        raise ValueError("the model has no head to sample labels from; use incremental.ewc with fisher='empirical'")
    return jax.lax.stop_gradient(outputs.logits)


def _sample(outputs, labels, key):
    sampled = jax.random.categorical(key, _logits(outputs))
    return jnp.where(labels >= 0, sampled, labels)


def _copy(tree):
    # Not the same arrays: the step gives its state's buffers away, and one buffer can't be given twice.
    return jax.tree.map(jnp.copy, tree)
