"""Unsupervised data augmentation: the same prediction for an example and its altered copy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import counted
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs
from ft_jax.data.augment_text import hide_tokens
from ft_jax.data.augmentation import Augmentation
from ft_jax.transfer.consistency import consistency
from ft_jax.transfer.pseudo_labels import check_threshold
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled


@register(
    "transfer",
    paper="Xie et al. 2019, arXiv:1904.12848, equation 1 and section 2.4",
    example=lambda problem: uda(problem.apply, hide_tokens(0.3), weight=0.2, threshold=0.05),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0}, batch=without_unlabelled),
)
def uda(
    apply: Callable,
    augmentation: Augmentation,
    weight: float = 1.0,
    temperature: float = 0.4,
    threshold: float = 0.8,
    *,
    name: str = "transfer.uda",
) -> Method:
    """Draws the prediction for an altered example to the sharpened one for the example itself.

    Adds ``weight · mean_x( 1(max p(x) > threshold) · KL(q(x) || p(augmentation(x))) )`` over ``batch["unlabelled"]``,
    with ``q = softmax(logits / temperature)`` by a pass without dropout or gradient, in nats. Evaluation leaves the
    term out. The paper's training signal annealing is `training_signal_annealing`, named after it.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      augmentation: such as `ft_jax.data.augment_text.replace_uninformative` (the paper's, by TF-IDF) or
        `ft_jax.data.augment_images.random_operations`.
      weight: λ in the paper; data in ``hyper``, as are all numbers here.
      temperature: below 1 sharpens; 0.4 in the paper.
      threshold: the least probability of an example's likeliest class; β in the paper, 0 takes every example.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: a temperature that is not above 0, or a threshold outside 0 to 1.

    Example:
      >>> from ft_jax.core import compose
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> compose(uda(apply, hide_tokens(0.2)), training_signal_annealing(apply, steps=500)).names
      ('transfer.uda', 'transfer.training_signal_annealing')
    """
    if temperature <= 0:
        raise ValueError(f"{name} has temperature {temperature}; give it a positive one, such as 0.4")
    check_threshold(threshold, name)

    def value(params, batch, outputs, context):
        hyper, unlabelled = context.hyper[name], batch["unlabelled"]
        numbers = (hyper["temperature"], hyper["threshold"])
        return hyper["weight"] * consistency(
            apply, params, unlabelled, context, sharpened_divergence, numbers, None, augmentation, name
        )

    hyper = {"weight": weight, "temperature": temperature, "threshold": threshold}
    return Method(name=name, hyper=hyper, loss=adding(name, value, in_evaluation=False), gives=LAYOUT)


def sharpened_divergence(logits: Array, target_logits: Array, numbers: tuple[Array, Array]) -> Array:
    """``1(max softmax(target_logits) > threshold) · KL(softmax(target_logits / temperature) || softmax(logits))``."""
    temperature, threshold = numbers
    log_q = jax.nn.log_softmax(target_logits / temperature)
    divergence = jnp.sum(jnp.exp(log_q) * (log_q - jax.nn.log_softmax(logits)), axis=-1)
    return jnp.where(jnp.max(jax.nn.softmax(target_logits), axis=-1) > threshold, divergence, 0.0)


SCHEDULES = {
    "log": lambda progress: 1 - jnp.exp(-5 * progress),
    "linear": lambda progress: progress,
    "exp": lambda progress: jnp.exp(5 * (progress - 1)),
}
"""How fast the labels are let in, by the share of the steps done; equation in section 2.4 of the paper."""


@register(
    "transfer",
    paper="Xie et al. 2019, arXiv:1904.12848, section 2.4 (training signal annealing)",
    example=lambda problem: training_signal_annealing(problem.apply, steps=100, schedule="log"),
    needs=("labels",),
    neutral=Neutral({"steps": 0.0}),
)
def training_signal_annealing(
    apply: Callable, steps: float, schedule: str = "linear", *, name: str = "transfer.training_signal_annealing"
) -> Method:
    """Labelled examples that the model knows well already don't count, so that few labels are not learned by heart.

    A label counts while its probability is below ``eta = alpha · (1 - 1 / classes) + 1 / classes``, where ``alpha``
    goes from 0 to 1 by the schedule: ``1 - exp(-5 t)`` (``"log"``), ``t`` (``"linear"``) or ``exp(5 (t - 1))``
    (``"exp"``, for few labels), ``t = step / steps``. The task's mean is over the labels that count, and
    is decided for the whole batch before it is split. Costs a forward pass of the labelled examples.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      steps: until every label counts, data in ``hyper``; 0 from the start.
      schedule: ``"log"``, ``"linear"`` or ``"exp"``.
      name: the method's name.

    Raises:
      ValueError: an unknown schedule.

    Example:
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> training_signal_annealing(apply, steps=500, schedule="exp").hyper
      {'steps': 500}
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"{name} has no schedule {schedule!r}; use one of {', '.join(map(repr, SCHEDULES))}")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        outputs = context.replace(train=False).run(apply, state.params, batch)
        probabilities, classes = label_probabilities(outputs, batch["labels"])
        steps = context.hyper[name]["steps"]
        progress = jnp.where(steps > 0, jnp.clip(context.step / jnp.maximum(steps, 1e-6), 0.0, 1.0), 1.0)
        alpha = jnp.where(progress < 1, SCHEDULES[schedule](progress), 1.0)
        threshold = alpha * (1 - 1 / classes) + 1 / classes
        weights = jnp.where((probabilities < threshold) | (progress >= 1), counted(batch), 0.0)
        return state, {**batch, "weights": weights}

    def refuses(parts):
        other = next((part for part in parts if part.gives not in (None, "examples", LAYOUT)), None)
        if other is None:
            return None
        return f"{name} weighs labelled examples, but {other.name} takes a batch of {other.gives}; leave one out"

    return Method(name=name, hyper={"steps": steps}, prepare=prepare, refuses=refuses)


def label_probabilities(outputs: Outputs, labels: Array) -> tuple[Float[Array, "batch ..."], int]:
    """The probability of each label, and the number of classes."""
    logits = outputs.logits
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], axis=-1)
    return jnp.exp(chosen[..., 0]), logits.shape[-1]
