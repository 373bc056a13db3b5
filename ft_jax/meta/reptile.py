"""Reptile: towards where ordinary training on a task ends."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import rows
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import combine
from ft_jax.meta.adaptation import Adaptation, difference, total
from ft_jax.meta.episodes import episodes, over_tasks
from ft_jax.meta.maml import Inner


@register(
    "meta",
    paper="Nichol et al. 2018, arXiv:1803.02999, algorithm 2",
    needs=("support", "query"),
    example=lambda problem: reptile(inner_rate=0.1, inner_steps=2),
    batch=episodes,
    neutral="several steps end where no single gradient points; with one step it is training on the support examples",
)
def reptile(
    inner_rate: float = 0.02,
    inner_steps: int = 5,
    *,
    minibatch: int | None = None,
    evaluation_steps: int | None = None,
    optimizer: Inner = "sgd",
    name: str = "meta.reptile",
) -> Method:
    """Moves the parameters towards where a few steps of training on a task end, without second derivatives.

    For each task ``adapted`` is `params` after `inner_steps` steps on the support examples, and the gradient that the
    optimizer sees is the mean over tasks of ``params - adapted``: with plain SGD of rate ε that is the paper's
    ``params ← params + ε · mean(adapted - params)``. It is the gradient of a term of value 0, named as the method;
    the query's terms are reported and have no gradient, as the query is not trained on. So give the training episodes
    more support examples than the evaluation's, as the paper does.

    Args:
      inner_rate: the inner optimizer's rate.
      inner_steps: how many inner steps training takes.
      minibatch: support examples of an inner step in training, drawn anew for each without replacement; None for all
        of them. Evaluation takes all.
      evaluation_steps: how many steps an evaluation takes, `inner_steps` by default, see `ft_jax.meta.maml`.
      optimizer: of the inner steps; the paper's is Adam with ``b1=0``.
      name: the method's name.

    Raises:
      ValueError: a minibatch below 1, or, when training, above the support examples; and as `ft_jax.meta.maml`.
      KeyError: as `ft_jax.meta.maml`.

    Example:
      >>> reptile(inner_rate=0.1, inner_steps=8, minibatch=5).name
      'meta.reptile'
    """
    if minibatch is not None and minibatch < 1:
        raise ValueError(f"{name} has minibatches of {minibatch} examples; give at least 1")
    inner = Adaptation(name, inner_steps, optimizer)

    def loss(plain):
        def task(params, support, query, context):
            start, rest = jax.lax.stop_gradient(inner.split(params))
            value = total(plain, support, context)

            def gradient(adapting, number):
                seen = value if minibatch is None or not context.train else _drawn(number)
                return jax.grad(lambda adapting: seen(combine(adapting, rest), number))(adapting)

            def _drawn(number):
                if minibatch > rows(support):
                    raise ValueError(
                        f"{name} draws minibatches of {minibatch} from {rows(support)} support examples; give fewer, "
                        "or minibatch=None"
                    )
                key = jax.random.fold_in(context.drawing(name).local_key, number)
                order = jax.random.choice(key, rows(support), (minibatch,), replace=False)
                return total(plain, jax.tree.map(lambda x: x[order], support), context)

            adapted = inner.adapt(gradient, start, context)
            terms, outputs = plain(combine(adapted, rest), query, context)
            if not context.train:
                return terms, outputs
            moved, own = jax.lax.stop_gradient(difference(start, adapted)), inner.split(params)[0]
            products = jax.tree.map(lambda m, p, s: jnp.sum(m * (p.astype(jnp.float32) - s)), moved, own, start)
            pull = sum(jax.tree.leaves(products), start=jnp.float32(0))
            return {**jax.lax.stop_gradient(terms), name: pull}, jax.lax.stop_gradient(outputs)

        return over_tasks(name, plain, task)

    return Method(
        name=name,
        hyper=inner.numbers(inner_rate, evaluation_steps),
        loss=loss,
        gives="episodes",
        refuses=inner.refuses,
    )
