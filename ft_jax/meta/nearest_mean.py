"""Classes by the nearest mean of the support's features: prototypical networks and SimpleShot."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import divisor, example_weights, named, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, logits_of, pooled
from ft_jax.core.params import Params
from ft_jax.core.state import Batch
from ft_jax.core.weights import shape
from ft_jax.meta.episodes import episodes, one_of_episodes, over_tasks

ABSENT = -1e9
"""The bias of a class that has no support example."""


def means(
    features: Float[Array, "n width"], classes: Int[Array, " n"], weights: Float[Array, " n"], ways: int
) -> tuple[Float[Array, "ways width"], Float[Array, " ways"]]:
    """Each class's weighted mean of its examples' features, and how much its examples weigh together.

    Example:
      >>> found, counts = means(jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]), jnp.ones(3), 2)
      >>> found.tolist(), counts.tolist()
      ([[1.0], [5.0]], [2.0, 1.0])
    """
    member = jax.nn.one_hot(classes, ways) * weights[:, None]
    counts = jnp.sum(member, axis=0)
    return (member.T @ features) / jnp.where(counts > 0, counts, 1.0)[:, None], counts


def nearest(centres: Float[Array, "ways width"], counts: Float[Array, " ways"]) -> tuple[Array, Array]:
    """A head whose softmax is that of ``-|x - centre|²``: ``2 x·centre - |centre|²``, as |x|² is the same for all."""
    bias = -jnp.sum(jnp.square(centres), axis=1)
    return 2.0 * centres.T, jnp.where(counts > 0, bias, ABSENT)


def ways_of(name: str, ways: int | None, field: str, outputs: Outputs, support: Batch) -> int:
    """How many classes an episode has: as given, else as many as the head has outputs.

    Raises:
      KeyError: the support has no such field.
      ValueError: neither is known.
    """
    if field not in support:
        raise KeyError(f"{name} reads each example's class from {field!r}, but the support has {named(support)}")
    if ways is None and outputs.unembedding is None:
        raise ValueError(f"{name} can't tell an episode's number of classes, as the network has no head; give ways=...")
    return shape(outputs.unembedding)[-1] if ways is None else ways


def _with_classes(batch: Batch) -> Batch:
    """Episodes of the laws' problem, each example with a class of its own beside its tokens' labels."""
    return episodes({**batch, "class": batch["input_ids"][:, 0] % 2})


@register(
    "meta",
    paper="Snell et al. 2017, arXiv:1703.05175, algorithm 1",
    needs=("support", "query"),
    example=lambda problem: prototypical(ways=2, field="class"),
    batch=_with_classes,
    neutral="its loss is by distances to the support's means and not by the head, at every value",
)
def prototypical(
    ways: int | None = None, *, field: str = "labels", term: str = "task", name: str = "meta.prototypical"
) -> Method:
    """Prototypical networks: a query example has the class whose mean of support features is nearest.

    ``-log softmax_k(-|f(x) - c_k|²)[class of x]`` in place of the task's loss, averaged over the query, ``c_k`` the
    mean of the support's features of class k. Features are the network's ``hidden``, averaged over real tokens where
    there is one a token. The head is not used in episodes. Nothing adapts in steps, so evaluation is one pass; a batch
    without ``support`` is evaluated by the head.

    Args:
      ways: classes of an episode, whose ids are below it; as many as the head has outputs by default.
      field: of the batch, the class of each example.
      term: of the loss inside, which is taken out.
      name: of the method and its term.

    Raises:
      KeyError: when training on a batch without ``support``, or without the field.
      ValueError: no `ways` for a network without a head.

    Example:
      >>> prototypical(ways=5).gives
      'episodes'
    """

    def loss(plain):
        def task(params, support, query, context):
            features, outputs = _features(plain, params, support, context)
            count = ways_of(name, ways, field, outputs, support)
            centres, counts = means(features, support[field], example_weights(support), count)
            terms, outputs = plain(params, query, context)
            head, bias = nearest(centres, counts)
            found = Outputs(pooled(outputs, query), head, bias, outputs.states)
            value = weighted_mean(_cross_entropy(found, query[field]), query)
            return {**scale_term(terms, term, None), name: value}, found

        return over_tasks(name, plain, task)

    return Method(name=name, loss=loss, drops=(term,), reads="examples", gives="episodes", refuses=one_of_episodes)


OUTLINE = {"input_ids": np.zeros((2, 4), np.int32)}
"""A batch as the network of the laws reads it."""


@register(
    "meta",
    paper="Wang et al. 2019, arXiv:1911.04623, section 3 (CL2N)",
    needs=("support", "query"),
    example=lambda problem: simple_shot(problem.apply, problem.params, OUTLINE, ways=2),
    neutral=Neutral({}),
)
def simple_shot(
    apply: Callable,
    params: Params,
    example: Batch,
    ways: int | None = None,
    *,
    field: str = "labels",
    name: str = "meta.simple_shot",
) -> Method:
    """SimpleShot: plain training on many classes; new ones by the nearest mean of centred features of length 1.

    Training is the step without the method. Of a batch with ``support`` an evaluation takes every example's features,
    ``x ← (f(x) - μ) / |f(x) - μ|``, and a query example has the class whose mean of ``x`` over the support is nearest.
    μ is the mean of the features of the training examples that a run keeps when its task ends
    (`ft_jax.training.EvaluationSpec.memories`), of the last task where there are several; until then, or of a network
    that is not trained, that of the episode's own support. A batch without ``support`` is evaluated by the head.

    Args:
      apply: the network, ``(params, batch, key) -> Outputs``.
      params: its parameters; their shapes matter.
      example: a batch; its shapes matter.
      ways: classes of an episode, whose ids are below it; as many as the head has outputs by default.
      field: of the batch, the class of each example.
      name: of the method, and of an episode's term.

    Raises:
      KeyError: an episode without the field.
      ValueError: no `ways` for a network without a head.

    Example:
      >>> apply = lambda params, batch, key: Outputs(batch["x"] @ params)
      >>> simple_shot(apply, jnp.ones((2, 3)), {"x": jnp.ones((1, 2))}, ways=5).name
      'meta.simple_shot'
    """
    shapes = jax.eval_shape(lambda params, batch: pooled(apply(params, batch, None), batch), params, dict(example))

    def memory(params, key):
        return {"mean": jnp.zeros(shapes.shape[-1]), "known": jnp.zeros(())}

    def loss(plain):
        def task(params, support, query, context):
            found, head_of = _features(plain, params, support, context)
            count, weights = ways_of(name, ways, field, head_of, support), example_weights(support)
            own = weights @ found / divisor(weights)
            remembered = context.memory[name]
            middle = jnp.where(remembered["known"] > 0, remembered["mean"], own)
            centres, counts = means(unit(found - middle), support[field], weights, count)
            features, outputs = _features(plain, params, query, context)
            answers = Outputs(unit(features - middle), *nearest(centres, counts), outputs.states)
            return {name: weighted_mean(_cross_entropy(answers, query[field]), query)}, answers

        whole = over_tasks(name, plain, task)

        def shot(params, batch, context):
            return plain(params, batch, context) if context.train else whole(params, batch, context)

        return shot

    def after_task(state, event):
        def one(batch):
            _, outputs = event.loss(state.params, batch, event.context)
            weights = example_weights(batch)
            return weights @ pooled(outputs, batch), jnp.sum(weights)

        sums, counts = jax.lax.map(one, dict(event.batches))
        count = jnp.sum(counts)
        mean = jnp.sum(sums, axis=0) / divisor(counts)
        return state.remember(name, {"mean": mean, "known": (count > 0).astype(jnp.float32)})

    return Method(name=name, memory=memory, loss=loss, after_task=after_task)


def unit(x: Float[Array, "n width"]) -> Float[Array, "n width"]:
    """Rows of length 1; one of zeros stays."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=1, keepdims=True), 1e-24))


def _features(plain, params: Params, batch: Batch, context: Any) -> tuple[Array, Outputs]:
    _, outputs = plain(params, batch, context)
    return pooled(outputs, batch), outputs


def _cross_entropy(outputs: Outputs, classes: Int[Array, " n"]) -> Float[Array, " n"]:
    logits = logits_of(outputs.hidden, outputs.head)
    chosen = jnp.take_along_axis(logits, jnp.maximum(classes, 0)[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen
