"""Model-agnostic meta-learning: second order, first order, and of the head alone."""

from collections.abc import Callable

import jax
import optax

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import combine
from ft_jax.meta.adaptation import Adaptation, total
from ft_jax.meta.episodes import episodes, merged_part, over_tasks

Inner = str | Callable[..., optax.GradientTransformation]


@register(
    "meta",
    paper="Finn et al. 2017, arXiv:1703.03400, algorithm 1",
    needs=("support", "query"),
    example=lambda problem: maml(),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0}, batch=merged_part),
)
def maml(
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    *,
    evaluation_steps: int | None = None,
    optimizer: Inner = "sgd",
    adapts: tuple[str, ...] = ("*",),
    rematerialise: bool = False,
    name: str = "meta.maml",
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
      inner_rate: the inner optimizer's rate.
      inner_steps: how many inner steps training takes.
      evaluation_steps: how many an evaluation takes, `inner_steps` by default. A number of the state: change it by
        ``state.with_hyper({"meta.maml.evaluation_steps": 10})`` and nothing is compiled again.
      optimizer: of the inner steps: a constructor of optax by its name, or a function of ``learning_rate``.
      adapts: patterns of the paths that adapt to a task, ``"model/head/*"``; what else learns stays.
      rematerialise: hold one inner step in memory in place of all, and compute them again.
      name: the method's name.

    Raises:
      ValueError: fewer than one inner step, an optimizer that optax doesn't have; when training, where nothing adapts.
      KeyError: when training on a batch without ``support``.

    Example:
      >>> maml(inner_rate=0.1, inner_steps=5).hyper
      {'inner_rate': 0.1, 'evaluation_steps': 5}
    """
    inner = Adaptation(name, inner_steps, optimizer, tuple(adapts), rematerialise)
    return _unrolled(inner, inner.numbers(inner_rate, evaluation_steps))


@register(
    "meta",
    paper="Finn et al. 2017, arXiv:1703.03400, section 5.2; Nichol et al. 2018, arXiv:1803.02999, equation 5",
    needs=("support", "query"),
    example=lambda problem: fomaml(inner_steps=2),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0}, batch=merged_part),
)
def fomaml(
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    *,
    evaluation_steps: int | None = None,
    optimizer: Inner = "sgd",
    adapts: tuple[str, ...] = ("*",),
    name: str = "meta.fomaml",
) -> Method:
    """MAML whose inner gradients are constants, without second derivatives: about a third less computation.

    The gradient of a task is ``∂ Σ terms(adapted, query) / ∂ adapted``, taken for that of the parameters it started
    from. All else as `ft_jax.meta.maml`.

    Args:
      inner_rate: the inner optimizer's rate.
      inner_steps: how many inner steps training takes.
      evaluation_steps: how many an evaluation takes, `inner_steps` by default.
      optimizer: of the inner steps.
      adapts: patterns of the paths that adapt to a task.
      name: the method's name.

    Raises:
      ValueError, KeyError: as `ft_jax.meta.maml`.

    Example:
      >>> fomaml(inner_rate=0.1, inner_steps=5).name
      'meta.fomaml'
    """
    inner = Adaptation(name, inner_steps, optimizer, tuple(adapts))
    return _unrolled(inner, inner.numbers(inner_rate, evaluation_steps), first_order=True)


@register(
    "meta",
    paper="Raghu et al. 2020, arXiv:1909.09157, equation 4",
    needs=("support", "query"),
    example=lambda problem: anil(),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0}, batch=merged_part),
)
def anil(
    inner_rate: float = 0.01,
    inner_steps: int = 1,
    *,
    evaluation_steps: int | None = None,
    optimizer: Inner = "sgd",
    adapts: tuple[str, ...] = ("model/head/*",),
    rematerialise: bool = False,
    name: str = "meta.anil",
) -> Method:
    """Almost no inner loop: MAML in which the head alone adapts to a task, over features that are meta-learned.

    All that learns has the gradient of the query's loss, through the head's inner steps too; the body is the same for
    all tasks. All else as `ft_jax.meta.maml`.

    Args:
      inner_rate: the inner optimizer's rate.
      inner_steps: how many inner steps training takes.
      evaluation_steps: how many an evaluation takes, `inner_steps` by default.
      optimizer: of the inner steps.
      adapts: patterns of the paths that adapt, those of the head. Where an adapter stands on it, name the adapter's,
        ``"*/transfer.lora/*"``.
      rematerialise: hold one inner step in memory in place of all.
      name: the method's name.

    Raises:
      ValueError, KeyError: as `ft_jax.meta.maml`; when composed, where nothing of the head learns.

    Example:
      >>> anil(inner_rate=0.1, inner_steps=5).name
      'meta.anil'
    """
    inner = Adaptation(name, inner_steps, optimizer, tuple(adapts), rematerialise)
    return _unrolled(inner, inner.numbers(inner_rate, evaluation_steps))


def _unrolled(inner: Adaptation, numbers: dict[str, float], first_order: bool = False) -> Method:
    """A method that differentiates the query's loss through the inner steps."""

    def loss(plain):
        def task(params, support, query, context):
            start, rest = inner.split(params)
            value = total(plain, support, context)

            def gradient(adapting, number):
                found = jax.grad(lambda adapting: value(combine(adapting, rest), number))(adapting)
                return jax.lax.stop_gradient(found) if first_order else found

            return plain(combine(inner.adapt(gradient, start, context), rest), query, context)

        return over_tasks(inner.name, plain, task)

    return Method(name=inner.name, hyper=numbers, loss=loss, gives="episodes", refuses=inner.refuses)
