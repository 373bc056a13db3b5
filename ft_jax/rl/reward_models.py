"""Models of rewards: of whole answers from preferences, and of steps from marks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import named, token_weights, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs
from ft_jax.rl.pairs import OWN_WEIGHTS, against_shuffled_words, chosen_of, joined, told_of_pairs


def scores(outputs: Outputs, head: Mapping[str, Array] | None, batch: Mapping[str, Any]) -> Float[Array, " batch"]:
    """One number an answer: the head's at its last real token, or the model's own where it gives one an example."""
    if outputs.hidden.ndim == 2:
        return outputs.logits[:, 0]
    counted = batch.get(OWN_WEIGHTS, batch.get("weights", batch.get("attention_mask")))
    time = jnp.arange(outputs.hidden.shape[1])
    last = jnp.full(outputs.hidden.shape[0], time[-1]) if counted is None else jnp.argmax((counted > 0) * time, axis=1)
    hidden = jnp.take_along_axis(outputs.hidden, last[:, None, None], axis=1)[:, 0]
    return _scored(head, hidden)


def _scored(head, hidden):
    return hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]


def _with_head(name: str, apply: Callable, example: Mapping[str, Any]):
    """Surgery that adds a head of one output over the model's hidden states."""

    def surgery(whole, key):
        side = example.get("chosen", example)
        outputs = jax.eval_shape(lambda params: apply(params, side, None), whole["model"])
        width = outputs.hidden.shape[-1]
        kernel = jax.random.normal(key, (width,)) / width
        return {**whole, name: {"kernel": kernel, "bias": jnp.float32(0)}}

    return surgery


@register(
    "rl",
    paper="Ouyang et al. 2022, arXiv:2203.02155, equation 1; margins of Touvron et al. 2023, arXiv:2307.09288, eq. 2",
    needs=("chosen", "rejected"),
    example=lambda problem: reward_model(problem.apply, problem.batch, sft=0.0),
    batch=against_shuffled_words,
    neutral=Neutral({"weight": 0.0, "centre": 0.0, "sft": 1.0}, batch=lambda batch: batch["chosen"]),
)
def reward_model(
    apply: Callable,
    example: Mapping[str, Any],
    weight: float = 1.0,
    sft: float | None = None,
    *,
    centre: float = 0.0,
    own_head: bool = True,
    term: str = "task",
    name: str = "rl.reward_model",
) -> Method:
    """Learns a number for an answer that is higher for the chosen one of two: Bradley and Terry's model.

    Adds ``weight · mean(-log_sigmoid(reward(chosen) - reward(rejected) - margin))`` and ``centre · mean((reward(chosen)
    + reward(rejected))²)``, which keeps rewards around 0 (Eisenstein et al. 2023, arXiv:2312.09244). Batches are those
    of `ft_jax.rl.dpo`; a field ``margin`` ``[pairs]`` of the chosen side, such as how much people preferred it, is
    subtracted. Rewards are in the outputs' states, see `ft_jax.rl.margins` with this method's name.

    Args:
      apply: the model's forward function.
      example: a batch, for the width of the hidden states.
      weight: of the term.
      sft: as in `ft_jax.rl.dpo`.
      centre: of the term that keeps rewards around 0.
      own_head: a head on the last real token's hidden state, ``params[name]``; False takes the first output of a model
        that gives one vector an example.
      term, name: as in `ft_jax.rl.dpo`.

    Raises:
      KeyError, ValueError: as `ft_jax.rl.dpo`.

    Example:
      >>> reward_model(lambda params, batch, key: None, {}).hyper
      {'weight': 1.0, 'centre': 0.0}
    """

    def loss(inner):
        def compared(params, batch, context):
            if not {"chosen", "rejected"} <= batch.keys():
                if not context.train:
                    return inner(params, batch, context)
                raise KeyError(
                    f"{name} trains on 'chosen' and 'rejected', but the batch has {named(batch)}; give it pairs"
                )
            chosen = {field: x for field, x in batch["chosen"].items() if field != "margin"}
            both = joined(chosen, {**batch["rejected"]}, name)
            pairs, numbers = both["labels"].shape[0] // 2, context.hyper[name]
            terms, outputs = inner(params, both, context)
            rewards = scores(outputs, context.join(params).get(name), both)
            better, worse = rewards[:pairs], rewards[pairs:]
            apart = better - worse - batch["chosen"].get("margin", 0.0)
            mean = lambda x: weighted_mean(jnp.concatenate([x, jnp.zeros(pairs)]), both)  # noqa: E731
            value = numbers["weight"] * mean(-jax.nn.log_sigmoid(apart))
            value = value + numbers["centre"] * mean((better + worse) ** 2)
            states = {**outputs.states, f"{name}/chosen": better, f"{name}/rejected": worse}
            tokens = jnp.sum(both[OWN_WEIGHTS] > 0, axis=1).astype(jnp.float32)
            states |= told_of_pairs(name, better, worse, tokens[:pairs], tokens[pairs:])
            outputs = chosen_of(dataclasses.replace(outputs, states=states), pairs)
            return {**scale_term(terms, term, numbers.get("sft")), name: value}, outputs

        return compared

    hyper = {"weight": weight, "centre": centre} | ({} if sft is None else {"sft": sft})
    surgery = _with_head(name, apply, example) if own_head else None
    return Method(
        name=name,
        hyper=hyper,
        surgery=surgery,
        loss=loss,
        drops=() if "sft" in hyper else (term,),
        reads="examples",
        gives="preferences",
    )


def _marked(batch):
    marks = jnp.where(jnp.arange(batch["labels"].shape[1]) % 3 == 1, batch["labels"] % 2, -1)
    return {**batch, "marks": jnp.where(batch["weights"] > 0, marks, -1)}


@register(
    "rl",
    paper="Uesato et al. 2022, arXiv:2211.14275, section 2.4; Lightman et al. 2023, arXiv:2305.20050, section 2.6",
    needs=("marks",),
    example=lambda problem: process_reward(problem.apply, problem.batch, sft=0.0),
    batch=_marked,
    neutral=Neutral({"weight": 0.0, "sft": 1.0}, batch=lambda batch: batch),
)
def process_reward(
    apply: Callable,
    example: Mapping[str, Any],
    weight: float = 1.0,
    sft: float | None = None,
    *,
    term: str = "task",
    name: str = "rl.process_reward",
) -> Method:
    """Learns whether each step of an answer is right, from marks at the steps' last tokens.

    Adds ``weight · mean(-mark · log σ(score) - (1 - mark) · log σ(-score))`` over the marked tokens of the batch, with
    the score of a head on the token's hidden state. The batch has ``marks`` ``[batch, time]``: 1 right, 0 wrong, -1 no
    end of a step. The probabilities ``σ(score)`` are in the outputs' state ``name``.

    Args:
      apply, example, weight, sft, term, name: as in `reward_model`.

    Raises:
      KeyError: when training on a batch without ``marks``.

    Example:
      >>> process_reward(lambda params, batch, key: None, {}).hyper
      {'weight': 1.0}
    """

    def prepare(state, batch, context):
        if "marks" not in batch:
            if not context.train:
                return state, batch
            raise KeyError(
                f"{name} trains on 'marks' [batch, time] at the ends of steps, but the batch has none; add them"
            )
        marked = (batch["marks"] >= 0).astype(jnp.float32)
        counts = token_weights(batch)
        marked = marked if counts is None else marked * (counts > 0)
        total, count = jnp.sum(marked), marked.shape[0]
        if context.axis is not None:
            total = jax.lax.pmean(total, context.axis)
        return state, {**batch, "mark_share": marked * count / jnp.maximum(total, 1e-8)}

    def loss(inner):
        def judged(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "mark_share" not in batch:
                return terms, outputs
            numbers = context.hyper[name]
            score = _scored(context.join(params)[name], outputs.hidden)
            right = jnp.where(batch["marks"] > 0, jax.nn.log_sigmoid(score), jax.nn.log_sigmoid(-score))
            value = -jnp.sum(batch["mark_share"] * right) / score.shape[0]
            outputs = dataclasses.replace(outputs, states={**outputs.states, name: jax.nn.sigmoid(score)})
            return {**scale_term(terms, term, numbers.get("sft")), name: numbers["weight"] * value}, outputs

        return judged

    return Method(
        name=name,
        hyper={"weight": weight} | ({} if sft is None else {"sft": sft}),
        surgery=_with_head(name, apply, example),
        prepare=prepare,
        loss=loss,
        drops=(term,) if sft is None else (),
        fields=("marks",),
    )
