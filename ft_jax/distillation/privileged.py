"""Self-distillation: the model that is shown more teaches the one that is not."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Int

from ft_jax.core.batches import named
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import divergence
from ft_jax.core.method import Method
from ft_jax.distillation.divergences import reverse_rows
from ft_jax.distillation.logits import softened_divergence
from ft_jax.distillation.teachers import averages, beside_task, check_temperature, refuse_mismatch, taught_by_average
from ft_jax.models.generation.generate import left_padded

SHOWN = "privileged"
"""The part of a batch with what the teacher reads in the prompts' place."""
DIRECTIONS = {
    "reverse": reverse_rows,
    "forward": lambda own, theirs, hyper: softened_divergence(own, theirs, hyper["temperature"]),
}


def _beside(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The laws' batch with the first tokens of each row, turned round, as what is shown."""
    ids = batch["input_ids"][..., 2::-1]
    return {**batch, SHOWN: {"input_ids": ids, "attention_mask": jnp.ones_like(ids)}}


@register(
    "distillation",
    paper="Shenfeld et al. 2026, arXiv:2601.19897",
    example=lambda problem: privileged(problem.apply, weight=0.5, decay=0.5, hard_weight=1.0),
    needs=(SHOWN,),
    batch=_beside,
    neutral=Neutral({"weight": 0.0}),
)
def privileged(
    apply: Callable,
    weight: float = 1.0,
    decay: float = 0.99,
    direction: str = "reverse",
    temperature: float = 1.0,
    hard_weight: float | None = None,
    *,
    name: str = "distillation.privileged",
) -> Method:
    """Draws the model to what it would say itself if it were shown a demonstration, or feedback, beside the prompt.

    The teacher is the moving average of the model's own parameters, ``average ← decay · average + (1 - decay) ·
    params`` after each step, and reads ``batch["privileged"]`` in the prompt's place: the prompt with a demonstration
    (SDFT), or with what was wrong about an earlier answer (SDPO). With y the answer in the batch's row, x its prompt
    and c what is shown, the term is ``weight · temperature² ·`` the mean over the answer's tokens of
    ``KL(student(. | x, y_<t) || teacher(. | c, y_<t))``. The paper's y are the student's own:
    ``compose(on_policy(share=1.0, ...), privileged(...))``. The teacher runs without dropout, isn't differentiated, and
    sees adapters and views as the student does, so under LoRA both stand on one base.

    Args:
      apply: the model's forward function, a decoder's.
      weight: of the term; data in ``hyper``, as are all numbers here.
      decay: of the average; 0 is the model of the last step, 1 that of the start for ever.
      direction: ``"reverse"``, ``KL(student || teacher)``, as the paper has it, or ``"forward"``, which its authors
        say they ran.
      temperature: softens both distributions.
      hard_weight: of the task's term, which SDFT does not have: None takes it out.
      name: the method's name; the average is ``memory[name]``.

    Raises:
      ValueError: another direction, a decay outside [0, 1], a temperature that is not positive; while tracing, labels
        that are no tokens, a text of more tokens than the model takes.
      KeyError: while training on a batch without the part.

    Example:
      >>> from ft_jax import models
      >>> import jax
      >>> privileged(models.tiny_decoder(jax.random.key(0)).apply, decay=0.95).hyper
      {'weight': 1.0, 'temperature': 1.0, 'decay': 0.95}
    """
    check_temperature(temperature, name)
    if direction not in DIRECTIONS:
        raise ValueError(f"{name} has direction {direction!r}; use 'reverse' or 'forward'")
    if not 0 <= decay <= 1:
        raise ValueError(f"{name} has decay {decay}; give a number from 0 to 1")
    numbers = {"weight": weight, "temperature": temperature, "decay": decay}
    numbers |= {} if hard_weight is None else {"hard_weight": hard_weight}

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            if SHOWN not in batch:
                if not context.train:
                    return terms, student
                raise KeyError(
                    f"{name} reads {SHOWN!r}, what the teacher is shown, and the batch has {named(batch)}; add it, as "
                    "data.shown does"
                )
            rows, place = taught_rows(batch, name)
            seen = taught_by_average(apply, learned, rows, context, name)
            hidden = jnp.take_along_axis(seen.hidden, place[..., None], axis=1)
            theirs = dataclasses.replace(seen, hidden=hidden, states={})
            refuse_mismatch(student, theirs, name)
            own = context.hyper[name]
            return beside_task(
                terms, name, own, divergence(DIRECTIONS[direction], student, theirs, batch, own)
            ), student

        return distilled

    return Method(
        name=name,
        hyper=numbers,
        loss=loss,
        drops=() if "hard_weight" in numbers else ("task",),
        reads="examples",
        fields=(SHOWN,),
        **averages(name),
    )


def taught_rows(batch: Mapping[str, Array], name: str) -> tuple[dict[str, Array], Int[Array, "batch time"]]:
    """What the teacher reads, and where in it the student's positions are.

    Args:
      batch: rows of tokens, whose answer stands after the first label that counts, and what is shown.
      name: of the method, for the error.

    Returns:
      Rows ``[batch, shown + time]`` of what is shown, padded on the left, and the answer; for each position of the
      student the one of the teacher that says the same token, where a label counts.
    """
    ids, labels, shown = batch["input_ids"], batch["labels"], batch[SHOWN]
    if labels.shape != ids.shape:
        raise ValueError(
            f"{name} compares what is said of the next token, and the labels are {labels.shape} for tokens "
            f"{ids.shape}; give it texts to learn to write"
        )
    real = batch.get("attention_mask", jnp.ones_like(ids)) > 0
    given, here = shown["input_ids"], shown.get("attention_mask", jnp.ones_like(shown["input_ids"])) > 0
    given, here = left_padded(given, here)
    time, width = ids.shape[1], given.shape[1]
    start = jnp.argmax(labels >= 0, axis=1)[:, None]
    at = start + 1 + jnp.arange(time)
    inside, at = at < time, jnp.minimum(at, time - 1)
    answer, there = jnp.take_along_axis(ids, at, axis=1), jnp.take_along_axis(real, at, axis=1) & inside
    rows = {
        "input_ids": jnp.concatenate([given, answer], axis=1),
        "attention_mask": jnp.concatenate([here, there], axis=1).astype(jnp.int32),
    }
    return rows, jnp.maximum(width - 1 + jnp.arange(time) - start, 0)
