"""Model-agnostic meta-learning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import named, shares, without_shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.mesh import mapped
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs
from ft_jax.core.state import Batch, direct
from ft_jax.core.weights import Weight, matmul, shape
from ft_jax.core.weights.operator import operator


def episodes(batch: Batch, tasks: int = 2) -> Batch:
    """`batch` cut into `tasks` episodes: of each task the first half is its support, the rest its query.

    Args:
      batch: fields ``[batch, ...]`` whose examples are sorted by task, the same number of each.
      tasks: how many.

    Returns:
      ``{"support": fields [tasks, n, ...], "query": fields [tasks, m, ...]}``.

    Raises:
      ValueError: a batch that doesn't divide, or with one example a task.

    Example:
      >>> {part: one["x"].tolist() for part, one in episodes({"x": jnp.arange(6)}).items()}
      {'support': [[0], [3]], 'query': [[1, 2], [4, 5]]}
    """
    count = jax.tree.leaves(batch)[0].shape[0]
    if count % tasks or count < 2 * tasks:
        raise ValueError(f"a batch of {count} does not make {tasks} episodes; give a multiple of it, two at least each")
    cut = jax.tree.map(lambda x: x.reshape(tasks, -1, *x.shape[1:]), dict(batch))
    half = count // tasks // 2
    return {"support": jax.tree.map(lambda x: x[:, :half], cut), "query": jax.tree.map(lambda x: x[:, half:], cut)}


def _merged_query(batch):
    """The query examples in one batch, weighed so that each task counts the same."""
    query = batch["query"]
    axes = tuple(range(1, query["weights"].ndim))
    weights = query["weights"] / jnp.sum(query["weights"], axis=axes, keepdims=True)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), {**query, "weights": weights})


@register(
    "meta",
    paper="Finn et al. 2017, arXiv:1703.03400, algorithm 1",
    needs=("support", "query"),
    example=lambda problem: maml(),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0}, batch=_merged_query),
)
def maml(
    inner_rate: float = 0.01, inner_steps: int = 1, first_order: bool = False, *, name: str = "meta.maml"
) -> Method:
    """Learns parameters from which a few gradient steps on a task's support examples solve the task.

    For each task, ``adapted ← adapted - inner_rate · ∂ Σ terms(adapted, support) / ∂ adapted``, `inner_steps`
    times from ``adapted = params``; the loss is the mean over tasks (those with query
    examples that count) of the terms of ``(adapted, query)``,
    differentiated through the inner steps. What adapts is what learns: all weights, or the adapters alone,
    with every term of the methods inside. Evaluation adapts as well; a batch without ``support`` is
    evaluated without adapting.

    The batch is ``{"support": fields [tasks, n, ...], "query": fields [tasks, m, ...]}``, see `episodes`;
    outputs and predictions are the query's, ``[tasks · m, ...]``, task after task.

    Args:
      inner_rate: the inner gradient's step size.
      inner_steps: how many inner steps.
      first_order: take the inner gradients as constants (first-order MAML, section 5.2 of the paper): no
        second derivatives, about a third less computation.
      name: the method's name.

    Raises:
      ValueError: fewer than one inner step.
      KeyError: when training on a batch without ``support``.

    Example:
      >>> maml(inner_rate=0.1, inner_steps=5).hyper
      {'inner_rate': 0.1}
    """
    if inner_steps < 1:
        raise ValueError(f"{name} takes {inner_steps} inner steps; give it at least 1")

    def loss(inner):
        def adapted(params, batch, context):
            if "support" not in batch:
                if not context.train:
                    return inner(params, batch, context)
                raise KeyError(
                    f"{name} trains on 'support' and 'query', but the batch has {named(batch)}; make the batch "
                    "with ft_jax.meta.episodes"
                )
            rate = context.hyper[name]["inner_rate"]

            def task(index, support, query):
                # A task is whole on its device, so a loss inside must not look for the rest of it on others.
                own = context.replace(
                    axis=None, coupling=direct, local_key=jax.random.fold_in(context.local_key, index)
                )

                def step(params, number):
                    seen = own.replace(local_key=jax.random.fold_in(own.local_key, number + 1))
                    total = lambda params: sum(inner(params, support, seen)[0].values(), start=jnp.float32(0))  # noqa: E731
                    gradients = jax.grad(total)(params)
                    gradients = jax.lax.stop_gradient(gradients) if first_order else gradients
                    return jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, gradients), None

                # One step without a loop compiles in two thirds of the time.
                if inner_steps == 1:
                    tuned, _ = step(params, 0)
                else:
                    tuned, _ = jax.lax.scan(step, params, jnp.arange(inner_steps))
                return inner(tuned, query, own)

            support, query = without_shares(batch["support"]), without_shares(batch["query"])
            tasks = jax.tree.leaves(query)[0].shape[0]
            terms, outputs = mapped(task, tasks)(jnp.arange(tasks), support, query)
            counts = shares(batch["query"], (tasks,)) / tasks
            return jax.tree.map(lambda term: counts @ term, terms), _merged(outputs)

        return adapted

    return Method(name=name, hyper={"inner_rate": inner_rate}, loss=loss, gives="episodes")


@operator()
class PerTask(Weight):
    """A weight for each task, ``base`` with a leading axis of tasks, over examples in order of their tasks."""

    base: Any

    def matmul(self, x, bias=None):
        tasks = jax.tree.leaves(self.base)[0].shape[0]
        cut = x.reshape(tasks, -1, *x.shape[1:])
        if bias is None:
            y = jax.vmap(matmul)(self.base, cut)
        else:
            y = jax.vmap(matmul)(self.base, cut, bias)
        return y.reshape(-1, *y.shape[2:])

    def materialize(self):
        raise TypeError("a head per task is not one matrix; take the logits, or adapt to one task alone")

    @property
    def shape(self):
        return shape(jax.tree.map(lambda leaf: leaf[0], self.base))


def _merged(outputs: Outputs) -> Outputs:
    """Outputs with a leading axis of tasks as those of one batch, each task keeping its own head."""
    flat = lambda x: x.reshape(-1, *x.shape[2:]) if x.ndim > 1 else x  # noqa: E731
    head = None if outputs.unembedding is None else PerTask(outputs.unembedding)
    states = jax.tree.map(flat, outputs.states)
    return dataclasses.replace(outputs, hidden=flat(outputs.hidden), unembedding=head, states=states)
