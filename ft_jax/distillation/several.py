"""Several teachers, and the student's own moving average as one."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import divergence
from ft_jax.core.method import Method
from ft_jax.core.params import Params, never
from ft_jax.distillation.logits import softened_divergence
from ft_jax.distillation.teachers import (
    averages,
    beside_task,
    check_temperature,
    refuse_mismatch,
    taught,
    taught_by_average,
)


@register(
    "distillation",
    paper="Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 1; You et al. 2017 (several teachers)",
    example=lambda problem: several(
        problem.apply, tuple(jax.tree.map(lambda leaf, s=s: s * leaf, problem.params) for s in (1.2, 0.8)), weight=0.5
    ),
    neutral=Neutral({"weight": 0.0}),
)
def several(
    apply: Callable | Sequence[Callable],
    params: Sequence[Params],
    weight: float = 1.0,
    temperature: float = 2.0,
    votes: Sequence[float] | None = None,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.several",
) -> Method:
    """Draws the student's softened distribution to the mean of several teachers'.

    The term is ``weight · temperature² · KL(Σ votes · teacher || student)`` with ``votes`` normalised, all
    distributions at ``softmax(logits / temperature)``: what an ensemble knows in one model. The logits of all teachers
    are made chunk by chunk. Composing `logits` twice would draw to the teachers' normalised product instead.

    Args:
      apply: one for all teachers, or one each.
      params: the teachers' parameters; they are frozen, held once and shared by all members.
      weight: of the term; data in ``hyper``, as are all numbers here.
      temperature: softens all distributions.
      votes: how much each teacher counts; alike by default.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teachers' parameters stand by their numbers.

    Raises:
      ValueError: no teacher, other numbers of votes or functions than teachers, votes that don't add up to more than 0;
        when tracing, a teacher of another vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> several(apply, [{}, {}], votes=(3.0, 1.0)).hyper["vote_0"]
      0.75
    """
    check_temperature(temperature, name)
    applies = tuple(apply) if isinstance(apply, tuple | list) else (apply,) * len(params)
    votes = (1.0,) * len(params) if votes is None else tuple(votes)
    if not len(params) or len(applies) != len(params) or len(votes) != len(params):
        raise ValueError(
            f"{name} has {len(params)} teachers, {len(applies)} functions and {len(votes)} votes; give at least one "
            "teacher, and as many of each"
        )
    if min(votes) < 0 or not sum(votes) > 0:
        raise ValueError(f"{name} has votes {votes}; give none below 0 and one above it")
    shares = {f"vote_{at}": vote / sum(votes) for at, vote in enumerate(votes)}
    hyper = {"weight": weight, "temperature": temperature, **shares}
    hyper |= {} if hard_weight is None else {"hard_weight": hard_weight}

    def surgery(tree, key):
        return {**tree, name: {str(at): one for at, one in enumerate(params)}}

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            own, held = context.hyper[name], context.join(learned)[name]
            teachers = tuple(taught(one, held[str(at)], batch) for at, one in enumerate(applies))
            for teacher in teachers:
                refuse_mismatch(student, teacher, name)
            apart = divergence(mixed_rows, student, teachers, batch, own)
            return beside_task(terms, name, own, apart), student

        return distilled

    return Method(
        name=name,
        hyper=hyper,
        surgery=surgery,
        trainable=never(f"{name}/*"),
        loss=loss,
        drops=() if "hard_weight" in hyper else ("task",),
        reads="examples",
    )


def mixed_rows(logits, teachers, hyper):
    """``temperature² · KL(Σ votes · teacher || student)`` of each position."""
    temperature, votes = hyper["temperature"], [hyper[f"vote_{at}"] for at in range(len(teachers))]
    p = sum(vote * jax.nn.softmax(x / temperature) for vote, x in zip(votes, teachers, strict=True))
    log_q = jax.nn.log_softmax(logits / temperature)
    log_p = jnp.log(jnp.maximum(p, jnp.finfo(jnp.float32).tiny))
    return temperature**2 * jnp.sum(p * (log_p - log_q), axis=-1)


@register(
    "distillation",
    paper="Tarvainen and Valpola 2017, arXiv:1703.01780, equation 2",
    example=lambda problem: own_average(problem.apply, decay=0.5, weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def own_average(
    apply: Callable,
    weight: float = 1.0,
    decay: float = 0.99,
    temperature: float = 1.0,
    *,
    name: str = "distillation.own_average",
) -> Method:
    """Draws the student to the moving average of itself (mean teacher).

    The term is ``weight · temperature² · KL(average || student)``, the average's outputs without dropout and not
    differentiated. After each step ``average ← decay · average + (1 - decay) · params`` over what learns. The paper
    measures the squared distance of probabilities, of which the divergence is the usual stand-in. `apply` sees the
    composition's adapters and views, so the teacher of a LoRA run is the average LoRA over the same base.

    Args:
      apply: the student's own.
      weight: of the term; data in ``hyper``, as are all numbers here.
      decay: of the average.
      temperature: softens both distributions.
      name: the method's name; the average is ``memory[name]``.

    Raises:
      ValueError: a decay outside [0, 1), a temperature that is not positive.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> own_average(apply, decay=0.9).hyper
      {'weight': 1.0, 'decay': 0.9, 'temperature': 1.0}
    """
    check_temperature(temperature, name)
    if not 0 <= decay < 1:
        raise ValueError(f"{name} has decay {decay}; give a number from 0 to below 1")

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            own = context.hyper[name]
            teacher = taught_by_average(apply, learned, batch, context, name)
            refuse_mismatch(student, teacher, name)
            apart = divergence(softened_divergence, student, teacher, batch, own["temperature"])
            return {**terms, name: own["weight"] * apart}, student

        return distilled

    return Method(
        name=name,
        hyper={"weight": weight, "decay": decay, "temperature": temperature},
        loss=loss,
        reads="examples",
        **averages(name),
    )
