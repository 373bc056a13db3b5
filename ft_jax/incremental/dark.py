"""Replay of examples with the answers that the model gave them: DER and DER++."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.state import Batch
from ft_jax.incremental.examples import no_answers
from ft_jax.incremental.replay import insert, remembered, rows_like

LOGITS = "remembered_logits"
"""Beside the fields of the examples in the buffer."""


@register(
    "incremental",
    paper="Buzzega et al. 2020, arXiv:2004.07211, equations 6 and 8",
    example=lambda problem: der(6, 4, problem.batch, problem.params["head"]["kernel"].shape[-1], alpha=0.05, beta=0.05),
    neutral=Neutral({"alpha": 0.0, "beta": 0.0}),
)
def der(
    capacity: int,
    size: int,
    example: Batch,
    classes: int,
    alpha: float = 0.5,
    beta: float = 0.0,
    *,
    name: str = "incremental.der",
) -> Method:
    """Replays examples with the logits that the model had for them when they came (dark experience replay).

    Adds ``alpha · mean over examples and classes of (logits - remembered logits)²`` on `size` examples of a reservoir
    and, for DER++ where beta is above 0, ``beta · Σ terms`` on another draw of as many, by label.
    Both are 0 while the reservoir is empty, and evaluation leaves them out.

    Args:
      capacity: examples the reservoir holds.
      size: examples of each draw.
      example: one batch; the names, types and shapes of the fields to remember.
      classes: of the model's logits.
      alpha: of the logits' distance.
      beta: of the replayed labels' loss; 0 is DER, and then the second draw still costs its forward pass.
      name: the method's name; ``memory[name]`` is ``{"buffer": fields and "remembered_logits", "seen"}``.

    Raises:
      ValueError: a capacity, size or number of classes below 1, and in the first step predictions that are no logits of
        so many classes for each label.

    Example:
      >>> batch = {"x": jnp.zeros((2, 5)), "labels": jnp.zeros(2, jnp.int32)}
      >>> der(10, 4, batch, classes=3).memory(None, None)["buffer"]["remembered_logits"].shape
      (10, 3)
    """
    if min(capacity, size, classes) < 1:
        raise ValueError(f"{name} has capacity {capacity}, size {size} and {classes} classes; give each at least 1")
    like = rows_like(example)
    places = like["labels"].shape[1:] if "labels" in like else ()

    def memory(params, key):
        buffer = jax.tree.map(lambda one: jnp.zeros((capacity, *one.shape[1:]), one.dtype), like)
        return {"buffer": {**buffer, LOGITS: jnp.zeros((capacity, *places, classes))}, "seen": jnp.int32(0)}

    def loss(inner):
        def replayed(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if not context.train:
                return terms, outputs
            own, numbers = context.memory[name], context.hyper[name]

            def drawn(label):
                key = context.key_for(f"{name}/{label}")
                rows = jax.random.randint(key, (size,), 0, jnp.clip(own["seen"], 1, capacity))
                past = jax.tree.map(lambda x: x[rows], own["buffer"])
                logits = past.pop(LOGITS)
                found, again = inner(params, past, context.drawing(f"{name}/{label}"))
                return past, logits, sum(found.values(), start=jnp.float32(0)), again

            past, before, _, again = drawn("logits")
            distance = jnp.mean(jnp.square(again.logits.astype(jnp.float32) - before), axis=-1)
            value = numbers["alpha"] * weighted_mean(distance, past)
            value += numbers["beta"] * drawn("labels")[2]
            return {**terms, name: jnp.where(own["seen"] > 0, value, 0.0)}, outputs

        return replayed

    def after_step(state, event):
        batch = remembered(event.batch, like, name)
        logits, rows = event.predictions, jax.tree.leaves(batch)[0].shape[0]
        shape = (rows, *places, classes)
        if logits is None or jnp.shape(logits) != shape:
            found = "none" if logits is None else f"predictions {jnp.shape(logits)}"
            raise ValueError(
                f"{name} remembers logits {shape}, and the model gives {found}; set classes to the model's"
            )
        entry = {**batch, LOGITS: logits.astype(jnp.float32)}
        key = jax.random.fold_in(event.key, digest(f"{name}/reservoir"))
        return state.remember(name, insert(state.memory[name], entry, key))

    return Method(
        name=name,
        hyper={"alpha": alpha, "beta": beta},
        memory=memory,
        loss=loss,
        after_step=after_step,
        reads="examples",
        refuses=no_answers(name),
    )
