"""Members that learn a task each, in one program."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import named, rows
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.ensemble.diversity.bagging import weighed

SOURCE = "source"


@register(
    "ensemble",
    paper="Ilharco et al. 2023, arXiv:2212.04089, section 3 (models of one start, a task each); here in one program",
    needs=(SOURCE,),
    example=lambda problem: own_task(2, task=1.0),
    batch=lambda batch: {**batch, SOURCE: jnp.arange(rows(batch), dtype=jnp.int32) % 2},
    neutral="it trains on a part of the rows, which no number makes the whole",
)
def own_task(tasks: int, task: float = 0.0, *, name: str = "ensemble.own_task") -> Method:
    """Trains on one task's rows of batches that hold rows of several, in equal numbers.

    Of a batch of ``n`` rows the ``n / tasks`` whose ``source [batch]`` is `task` are taken, so as many are computed as
    are learned from; where there are fewer, others stand in with weight 0. `task` is a number, so that a population
    gives each of its members another: all of them in one program on one frozen base. Evaluation takes every row.

    Args:
      tasks: how many there are.
      task: the one that is learned, from 0, data in ``hyper``.
      name: the method's name.

    Raises:
      ValueError: a task that there isn't, or while tracing rows that don't divide by the tasks.
      KeyError: in training, a batch without ``source``.

    Example:
      >>> from ft_jax import compose, transfer, tuning
      >>> each = tuning.population({"ensemble.own_task.task": [0, 1, 2]})
      >>> compose(each, own_task(3), transfer.lora(rank=4)).names
      ('tuning.population', 'ensemble.own_task', 'transfer.lora')
    """
    if tasks < 1 or task not in range(tasks):
        raise ValueError(f"{name} has task {task:g} of {tasks}; give a whole number from 0 to {max(tasks, 1) - 1}")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        if SOURCE not in batch:
            raise KeyError(
                f"{name} reads {SOURCE!r} of each example, and the batch has {named(batch)}; put the tasks' data "
                "together by ft_jax.training.own_data.Mixture(sources, together=True)"
            )
        count = rows(batch)
        if count % tasks:
            raise ValueError(f"{name} shares {count} rows among {tasks} tasks; give a batch size that {tasks} divides")
        own = batch[SOURCE].astype(jnp.float32) == state.hyper[name]["task"]
        places = jnp.argsort(~own, stable=True)[: count // tasks]
        taken = jax.tree.map(lambda leaf: leaf[places] if jnp.ndim(leaf) else leaf, dict(batch))
        return state, weighed(taken, own[places].astype(jnp.float32))

    return Method(name=name, hyper={"task": task}, prepare=prepare, fields=(SOURCE,))
