"""Meta-SGD: a start and a rate for every parameter, learned together."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import combine, digest, map_with_path
from ft_jax.meta.adaptation import Adaptation, total
from ft_jax.meta.episodes import episodes, merged_part, over_tasks


@register(
    "meta",
    paper="Li et al. 2017, arXiv:1707.09835, algorithm 1",
    needs=("support", "query"),
    example=lambda problem: meta_sgd(rates=(0.005, 0.02)),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0}, batch=merged_part),
)
def meta_sgd(
    rates: tuple[float, float] = (0.005, 0.1),
    inner_steps: int = 1,
    *,
    evaluation_steps: int | None = None,
    adapts: tuple[str, ...] = ("*",),
    rematerialise: bool = False,
    name: str = "meta.meta_sgd",
) -> Method:
    """MAML whose inner step has a learned rate, of either sign, for every parameter that adapts.

    ``adapted ← adapted - inner_rate · rates ∘ ∂ Σ terms(adapted, support) / ∂ adapted``; the rates are parameters,
    ``params["meta.meta_sgd"]``, which learn with the others by the query's loss. All else as `ft_jax.meta.maml`.

    The rates fit the number of steps they were trained for, one in the paper, and are bounded by nothing: on the
    paper's sinusoids one step is better than MAML's, the second already worse, and after five or so the parameters
    overflow. Evaluate after `inner_steps`, train with as many steps as will be taken, or shrink the rates by the
    number ``inner_rate``.

    Args:
      rates: the rates start uniform between these, as the paper's do.
      inner_steps: how many inner steps training takes.
      evaluation_steps: how many an evaluation takes, `inner_steps` by default.
      adapts: patterns of the paths that adapt to a task.
      rematerialise: hold one inner step in memory in place of all.
      name: the method's name.

    Raises:
      ValueError: rates that are no range of numbers above 0; and as `ft_jax.meta.maml`.
      KeyError: as `ft_jax.meta.maml`.

    Example:
      >>> meta_sgd(rates=(0.01, 0.01)).hyper
      {'inner_rate': 1.0, 'evaluation_steps': 1}
    """
    low, high = rates
    if not 0 < low <= high:
        raise ValueError(f"{name} has rates from {low:g} to {high:g}; give two numbers above 0, the lower first")
    inner = Adaptation(name, inner_steps, optax.sgd, tuple(adapts), rematerialise)

    def learned(params, key):
        def drawn(path, leaf):
            own = jax.random.fold_in(key, digest(path))
            return jax.random.uniform(own, leaf.shape, leaf.dtype, low, high)

        return map_with_path(drawn, inner.split(params)[0])

    def loss(plain):
        def task(params, support, query, context):
            own = params[name]
            start, rest = inner.split({key: value for key, value in params.items() if key != name})
            value = total(plain, support, context)

            def whole(adapting):
                return {**combine(adapting, rest), name: own}

            def gradient(adapting, number):
                found = jax.grad(lambda adapting: value(whole(adapting), number))(adapting)
                return jax.tree.map(lambda rate, g: rate * g.astype(jnp.float32), own, found)

            return plain(whole(inner.adapt(gradient, start, context)), query, context)

        return over_tasks(name, plain, task)

    numbers = inner.numbers(1.0, evaluation_steps)
    return Method(name=name, hyper=numbers, learned=learned, loss=loss, gives="episodes", refuses=inner.refuses)
