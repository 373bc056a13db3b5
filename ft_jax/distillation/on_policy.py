"""Distillation on what the student itself writes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ft_jax.core.batches import named
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.state import Context
from ft_jax.data.teacher_cache import IDS
from ft_jax.models import generate_by


@register(
    "distillation",
    paper="Agarwal et al. 2024, arXiv:2306.13649, algorithm 1",
    example=lambda problem: on_policy(problem.apply, share=1.0, max_new_tokens=2),
    neutral=Neutral({"share": 0.0}),
)
def on_policy(
    apply: Callable,
    *,
    share: float = 0.5,
    max_new_tokens: int,
    temperature: float = 1.0,
    stop_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
    name: str = "distillation.on_policy",
) -> Method:
    """Lets the student write the answers on which a teacher corrects it, in a share of the steps.

    With probability `share` a step's batch keeps its prompts alone and the student answers them, inside the step and by
    its parameters of the step; what follows (any divergence, any other loss) sees these answers in place of the data's.
    ``compose(on_policy(...), jsd(teacher, hard_weight=None))`` is GKD with the mixture λ = `share`; with
    ``reverse_kl`` it is MiniLLM's objective without its baseline. The samples are not differentiated.

    A prompt is what stands up to the first label that counts. An answer goes where the data's stood, as far as the row
    has room; its labels are its tokens up to and with the stop. Rows without a label that counts stay as they are, and
    so do evaluations.

    Args:
      apply: the student's forward function, a decoder's.
      share: λ, of the steps; data in ``hyper``.
      max_new_tokens: tokens of an answer at most.
      temperature: of the sampling; data in ``hyper``.
      stop_tokens: ids that end an answer.
      pad_token: what fills up a row after its answer.
      name: the method's name.

    Raises:
      ValueError: numbers out of range. While tracing: a batch without labels of tokens, or of packed sequences.

    Example:
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> on_policy(model.apply, share=0.25, max_new_tokens=8).hyper
      {'share': 0.25, 'temperature': 1.0}
    """
    if max_new_tokens < 1:
        raise ValueError(f"{name} has max_new_tokens={max_new_tokens}; give at least 1")
    if not temperature > 0:
        raise ValueError(f"{name} samples at temperature {temperature}; give one above 0")
    if not 0 <= share <= 1:
        raise ValueError(f"{name} has share={share}; give a share of the steps, 0 to 1")
    how = {"max_new_tokens": max_new_tokens, "stop_tokens": tuple(stop_tokens), "pad_token": pad_token}

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        check(batch, name)
        given = {**batch, "attention_mask": batch.get("attention_mask", jnp.ones_like(batch["input_ids"]))}

        def written(given):
            return answered(given, lambda *prompt: sampled(context, state, given, prompt), pad_token)

        def sampled(context: Context, state, given, prompt):
            keys, more = context.keys_for(name, given), {k: x for k, x in given.items() if k not in CHANGED}
            own = context.hyper[name]["temperature"]
            return generate_by(context, apply, state.params, *prompt, more, key=keys, temperature=own, **how)

        chosen = jax.random.uniform(context.key_for(f"{name}/share")) < context.hyper[name]["share"]
        return state, jax.lax.cond(chosen, written, lambda given: given, given)

    return Method(
        name=name,
        hyper={"share": share, "temperature": temperature},
        prepare=prepare,
        reads="examples",
        refuses=_refuses(name),
    )


CHANGED = ("input_ids", "attention_mask", "labels", "weights")


def check(batch: Mapping[str, Array], name: str) -> None:
    """Raises KeyError or ValueError on a batch whose answers can't be written anew."""
    for field in ("input_ids", "labels"):
        if field not in batch:
            raise KeyError(f"{name} answers the prompts of texts, and the batch has {named(batch)}; add {field!r}")
    if batch["labels"].shape != batch["input_ids"].shape:
        raise ValueError(
            f"{name} writes answers token by token, and the labels are {batch['labels'].shape} for tokens "
            f"{batch['input_ids'].shape}; give it texts to learn to write"
        )
    if "segment_ids" in batch:
        raise ValueError(f"{name} answers one prompt a row, and the rows are packed; set packing to False")


def answered(batch: Mapping[str, Array], answer: Callable, pad_token: int) -> dict[str, Any]:
    """A batch whose answers are those of a function of the prompts.

    Args:
      batch: with ``input_ids``, ``labels`` and ``attention_mask`` ``[batch, time]``.
      answer: ``(ids, mask) -> Generation``, one answer a row.
      pad_token: what fills up a row.
    """
    ids, real = batch["input_ids"], batch["attention_mask"] > 0
    weights = batch.get("weights")
    counts = batch["labels"] >= 0
    if weights is not None:
        counts = counts & (weights.reshape(weights.shape[0], -1) > 0)
    has, start = counts.any(axis=1), jnp.argmax(counts, axis=1)
    place = jnp.arange(ids.shape[1])
    before = place <= start[:, None]
    prompt = real & before
    # A row without a prompt (padding) is asked about its first token, and stays as it is.
    asked = prompt.at[:, 0].set(prompt[:, 0] | ~prompt.any(axis=1))
    told = answer(ids, asked.astype(jnp.int32))
    new = {
        "input_ids": jnp.where(before, ids, _laid(told, start + 1, ids.shape[1], pad_token)),
        "attention_mask": prompt | _laid_real(told, start + 1, ids.shape[1]),
        "labels": _laid(told, start, ids.shape[1], -1),
    }
    if weights is not None and weights.ndim > 1:
        new["weights"] = _laid_real(told, start, ids.shape[1])
    kept = {field: has.reshape(-1, *[1] * (batch[field].ndim - 1)) for field in new}
    return {
        **batch,
        **{field: jnp.where(kept[field], x.astype(batch[field].dtype), batch[field]) for field, x in new.items()},
    }


def _laid(told, start: Int[Array, " batch"], time: int, filling: int) -> Int[Array, "batch time"]:
    """Answers in rows of so many tokens, each from its start on, and a filling elsewhere."""
    at = jnp.arange(time) - start[:, None]
    tokens = jnp.take_along_axis(told.tokens, jnp.clip(at, 0, told.tokens.shape[1] - 1), axis=1)
    return jnp.where(_laid_real(told, start, time), tokens, filling)


def _laid_real(told, start, time):
    at = jnp.arange(time) - start[:, None]
    return (at >= 0) & (at < told.lengths[:, None])


def _refuses(name):
    def refuses(parts):
        other = next((part.name for part in parts if IDS in part.fields), None)
        if other is None:
            return None
        return (
            f"{other} reads what a teacher said of the data's tokens, and {name} has the student write others; take a "
            "live teacher, such as distillation.jsd, or leave one of the two out"
        )

    return refuses
