"""Distillation by correlation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.batches import shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import divergence
from ft_jax.core.method import Method
from ft_jax.core.params import Params, never
from ft_jax.distillation.teachers import beside_task, check_temperature, holding, refuse_mismatch, taught

SMALLEST = 1e-8


@register(
    "distillation",
    paper="Huang et al. 2022, arXiv:2205.10536, equations 7 to 10",
    example=lambda problem: dist(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def dist(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    inter: float = 1.0,
    intra: float | None = 1.0,
    temperature: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.dist",
) -> Method:
    """Asks that a student's probabilities correlate with a teacher's, over classes and over examples (DIST).

    The term is ``weight · temperature² · (inter · (1 - mean over positions of ρ(student, teacher)) + intra · (1 - mean
    over classes of ρ(student, teacher)))`` with ``ρ`` Pearson's correlation over the classes of a position, and over
    the positions of the whole batch for a class. A student so matches the teacher's order and not its confidence. The
    second part compares examples, so it holds all probabilities of the batch: leave it out (None) over a vocabulary.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      inter, intra: of the correlations over classes and over examples.
      temperature: softens both distributions.
      hard_weight: of the task's term; None takes it out.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a temperature that is not positive; when tracing, a teacher of another vocabulary or positions.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> dist(apply, {}, intra=None, hard_weight=None).hyper
      {'weight': 1.0, 'inter': 1.0, 'temperature': 1.0}
    """
    check_temperature(temperature, name)
    hyper = {"weight": weight, "inter": inter, "temperature": temperature}
    hyper |= {key: x for key, x in (("intra", intra), ("hard_weight", hard_weight)) if x is not None}

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            own = context.hyper[name]
            teacher = taught(apply, context.join(learned)[name], batch)
            refuse_mismatch(student, teacher, name)
            apart = own["inter"] * divergence(inter_rows, student, teacher, batch, own["temperature"])
            if intra is not None:
                pair = [jax.nn.softmax(x.logits / own["temperature"]) for x in (student, teacher)]
                counts = shares(batch, pair[0].shape[:-1])
                apart += own["intra"] * context.couple(_intra, pair[0], aligned=(pair[1], counts))
            return beside_task(terms, name, own, own["temperature"] ** 2 * apart), student

        return distilled

    return Method(
        name=name,
        hyper=hyper,
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        loss=loss,
        drops=() if "hard_weight" in hyper else ("task",),
        reads="examples",
    )


def inter_rows(logits, teacher_logits, temperature):
    """``1 - ρ`` over the classes of each position."""
    own, theirs = (jax.nn.softmax(x / temperature) for x in (logits, teacher_logits))
    return 1 - correlation(own, theirs, jnp.ones_like(own), axis=-1)


def _intra(own, everyone, start, shared, own_aligned, all_aligned):
    theirs, counts = all_aligned
    classes = everyone.shape[-1]
    rows, others = (x.reshape(-1, classes) for x in (everyone, theirs))
    return jnp.mean(1 - correlation(rows, others, counts.reshape(-1, 1), axis=0))


_intra.of_classes = True  # see Context.couple


def correlation(a, b, weights, axis: int):
    """Pearson's correlation over an axis, its entries counting by their weights; 0 where one has no spread.

    Example:
      >>> a = jnp.array([1.0, 2.0, 4.0])
      >>> round(float(correlation(a, 3 * a + 1, jnp.ones(3), axis=0)), 4)
      1.0
    """
    total = jnp.maximum(jnp.sum(weights * jnp.ones_like(a), axis=axis, keepdims=True), SMALLEST)

    def centred(x):
        return x - jnp.sum(weights * x, axis=axis, keepdims=True) / total

    a, b = centred(a), centred(b)
    products = [jnp.sum(weights * x * y, axis=axis) for x, y in ((a, b), (a, a), (b, b))]
    return products[0] / (_root(products[1]) * _root(products[2]))


def _root(x):
    """The square root, never below the smallest divisor, with a gradient everywhere."""
    return jnp.sqrt(jnp.maximum(x, SMALLEST**2))
