"""Episodes: a task's support examples to learn it from, and its query examples to be judged on."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import named, shares, without_shares
from ft_jax.core.mesh import mapped
from ft_jax.core.method import Loss, Method, Terms
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params
from ft_jax.core.state import Batch, Context, direct
from ft_jax.core.weights import Weight, matmul, shape
from ft_jax.core.weights.operator import operator

ADAPTATION = "adaptation"
"""What the key of the inner steps is called, apart from that of the loss on the query."""


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


def merged_part(batch: Batch, part: str = "query") -> Batch:
    """The examples of one part of episodes in one batch, weighed so that each task counts the same.

    Args:
      batch: of episodes, whose part has ``weights``.
      part: ``"support"`` or ``"query"``.
    """
    found = batch[part]
    axes = tuple(range(1, found["weights"].ndim))
    weights = found["weights"] / jnp.sum(found["weights"], axis=axes, keepdims=True)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), {**found, "weights": weights})


Task = Callable[[Params, Batch, Batch, Context], tuple[Terms, Outputs]]
"""``(params, support, query, context) -> (terms, outputs of the query)`` of one task."""


def one_of_episodes(parts: Iterable[Method]) -> str | None:
    """`Method.refuses` of a method over episodes: a second one would need episodes of episodes.

    Example:
      >>> one_of_episodes((Method("meta.maml", gives="episodes"), Method("meta.anil", gives="episodes")))
      'meta.anil and meta.maml both learn over episodes, which the data gives once; leave one of the two out'
    """
    found = sorted(part.name for part in parts if part.gives == "episodes")
    if len(found) < 2:
        return None
    return f"{found[0]} and {found[1]} both learn over episodes, which the data gives once; leave one of the two out"


def over_tasks(name: str, plain: Loss, task: Task) -> Loss:
    """A loss over episodes: the mean of a task's terms over the tasks (those with query examples that count).

    Outputs and predictions are the query's, ``[tasks · m, ...]``, task after task, each with its own head. A batch
    without ``support`` is evaluated by `plain`.

    Args:
      name: of the method.
      plain: the loss over examples.
      task: what one task gives. It is whole on its device, so that losses inside it don't look for the rest of it on
        others.

    Raises:
      KeyError: when training on a batch without ``support``.
    """

    def loss(params, batch, context):
        if "support" not in batch:
            if not context.train:
                return plain(params, batch, context)
            raise KeyError(
                f"{name} trains on 'support' and 'query', but the batch has {named(batch)}; make the batch "
                "with ft_jax.meta.episodes"
            )

        def one(index, support, query):
            key = jax.random.fold_in(context.local_key, index)
            return task(params, support, query, context.replace(axis=None, coupling=direct, local_key=key))

        support, query = (_weighed(without_shares(batch[part])) for part in ("support", "query"))
        tasks = jax.tree.leaves(query)[0].shape[0]
        terms, outputs = mapped(one, tasks)(jnp.arange(tasks), support, query)
        counts = shares(batch["query"], (tasks,)) / tasks
        return jax.tree.map(lambda term: counts @ term, terms), _merged(outputs)

    return loss


def _weighed(part: Batch) -> Batch:
    """A part whose ``weights``, where they are one a task, are one an example."""
    if "weights" not in part or part["weights"].ndim > 1:
        return part
    tasks, count = next(x.shape[:2] for x in part.values() if not isinstance(x, Mapping) and x.ndim > 1)
    return {**part, "weights": jnp.broadcast_to(part["weights"][:, None], (tasks, count))}


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
