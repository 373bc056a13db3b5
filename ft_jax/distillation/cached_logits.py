"""Distillation from a teacher's largest logits, stored beside the data: no teacher in memory."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import named
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import divergence
from ft_jax.core.method import Method
from ft_jax.data.teacher_cache import IDS, VALUES
from ft_jax.distillation.teachers import beside_task, check_temperature

TAILS = ("bucket", "renormalised")
LEAST = 1e-6
"""Nats below 0 that the student's share of the support stays: its tail is never quite 0."""


def _remembered(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The laws' batch with three classes of 32 for every token, the label among them."""
    labels = jnp.maximum(batch["labels"], 0)
    ids = jnp.stack([labels, (labels + 1) % 32, (labels + 7) % 32], axis=-1)
    shares = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1], jnp.float32))
    return {**batch, IDS: ids.astype(jnp.int32), VALUES: jnp.broadcast_to(shares, (*labels.shape, 4))}


@register(
    "distillation",
    paper="Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2, over the teacher's likeliest classes",
    example=lambda problem: cached_logits(weight=0.5),
    needs=(IDS, VALUES),
    batch=_remembered,
    neutral=Neutral({"weight": 0.0}),
)
def cached_logits(
    weight: float = 1.0,
    temperature: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    tail: str = "bucket",
    name: str = "distillation.cached_logits",
) -> Method:
    """Draws the student to a teacher's ``top`` likeliest classes, which ``ft-jax cache-teacher`` has written down.

    With S the stored classes of a position, p the teacher and q the student, the term is ``weight ·`` the mean over all
    positions that count of

    - ``tail="bucket"``: ``Σ_S p log(p / q) + p_rest log(p_rest / q_rest)``, all other classes as one, whose shares are
      ``1 - Σ_S p`` and ``1 - Σ_S q``. A lower bound of the whole divergence, and equal to it where S is all classes.
    - ``tail="renormalised"``: ``temperature² Σ_S p' log(p' / q')``, both as ``softmax(log . / temperature)`` over S
      alone; what the student says beside S is not looked at.

    The loss is ``hard_weight · task`` beside it. The batch holds ``teacher_ids`` ``[batch, time, top]`` and
    ``teacher_log_probabilities`` ``[batch, time, top + 1]``, whose last is that of all other classes together. Only the
    student's logits are made, chunk by chunk.

    Args:
      weight: of the term under the method's name; data in ``hyper``, as are all numbers here.
      temperature: softens both; other than 1 for ``"renormalised"`` alone, as the rest's share is known at 1.
      hard_weight: of the task's term, named ``"task"``. None takes it out, and nothing of it is computed.
      tail: what becomes of the classes beside the stored ones.
      name: the method's name.

    Raises:
      ValueError: a temperature that is not positive, or not 1 for a bucket; another tail.
      KeyError: when training on a batch without the stored fields.

    Example:
      >>> from ft_jax.core import Outputs, make_step, supervised
      >>> import optax
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> program = make_step(supervised(apply), optax.sgd(0.1), cached_logits(hard_weight=None))
      >>> state = program.init({"w": jnp.zeros((2, 3))}, jax.random.key(0))
      >>> likeliest = {IDS: jnp.array([[2]]), VALUES: jnp.log(jnp.array([[0.8, 0.2]]))}
      >>> _, metrics = program.step(state, {"x": jnp.ones((1, 2)), "labels": jnp.array([0]), **likeliest})
      >>> round(float(metrics["distillation.cached_logits"]), 4)
      0.4596
    """
    check_temperature(temperature, name)
    if tail not in TAILS:
        raise ValueError(f"{name} has no tail {tail!r}; use one of {', '.join(map(repr, TAILS))}")
    if tail == "bucket" and temperature != 1.0:
        raise ValueError(
            f"{name} has temperature {temperature} and tail 'bucket', whose share is known at temperature 1; "
            "use tail='renormalised', or temperature 1"
        )
    numbers = {"weight": weight} | ({"temperature": temperature} if tail == "renormalised" else {})
    numbers |= {} if hard_weight is None else {"hard_weight": hard_weight}
    rows = bucket_divergence if tail == "bucket" else _renormalised

    def loss(inner):
        def distilled(params, batch, context):
            terms, student = inner(params, batch, context)
            if IDS not in batch or VALUES not in batch:
                if not context.train:
                    return terms, student
                raise KeyError(
                    f"{name} reads {IDS!r} and {VALUES!r}, and the batch has {named(batch)}; write them with "
                    "ft-jax cache-teacher and name the folder as data.teacher"
                )
            own = context.hyper[name]
            apart = divergence(rows, student, (), batch, own, aligned=(batch[IDS], batch[VALUES]))
            return beside_task(terms, name, own, apart), student

        return distilled

    return Method(
        name=name,
        hyper=numbers,
        loss=loss,
        drops=("task",) if hard_weight is None else (),
        reads="examples",
        fields=(IDS, VALUES),
    )


def bucket_divergence(logits: Array, _, numbers, stored) -> Float[Array, "batch ..."]:
    """``KL(teacher || student)`` of each position over the stored classes and one bucket of all others."""
    ids, values = stored
    log_p = jax.nn.log_softmax(values)  # stored shares are rounded; together they are 1 again
    log_q = _of_classes(jax.nn.log_softmax(logits), ids)
    support = jnp.minimum(jax.nn.logsumexp(log_q, axis=-1, keepdims=True), -LEAST)
    log_q = jnp.concatenate([log_q, jnp.log(-jnp.expm1(support))], axis=-1)
    return _divergence(log_p, log_q)


def _renormalised(logits, _, numbers, stored):
    ids, values = stored
    temperature = numbers["temperature"]
    log_p = jax.nn.log_softmax(values[..., :-1] / temperature)
    log_q = jax.nn.log_softmax(_of_classes(logits, ids) / temperature)
    return temperature**2 * _divergence(log_p, log_q)


def _of_classes(rows, ids):
    return jnp.take_along_axis(rows, ids, axis=-1)


def _divergence(log_p, log_q):
    # A class without a share adds nothing, whatever the student gives it.
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0.0) - log_q), 0.0), axis=-1)
