"""Proximal policy optimisation of a language model, with a value for every token."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.rl import policy_losses
from ft_jax.rl.advantages import generalised, whitened
from ft_jax.rl.online.grpo import OUTLINE, even_tokens, prompts_of
from ft_jax.rl.online.policy_gradient import answered, each
from ft_jax.rl.online.rewards import Reward
from ft_jax.rl.online.rollouts import Rollouts, policy_tokens, room_for, temperature_of, told_of
from ft_jax.rl.online.serving import served
from ft_jax.rl.sources import only_source


@register(
    "rl",
    paper="Schulman et al. 2017, arXiv:1707.06347; for language Ziegler et al. 2019, arXiv:1909.08593, equation 2",
    needs=("input_ids", "attention_mask"),
    example=lambda problem: ppo(problem.apply, OUTLINE, even_tokens, max_new_tokens=4, epochs=1, minibatches=1),
    batch=prompts_of,
    neutral="its batch is what the policy says, so there is no step without it to equal",
)
def ppo(
    apply: Callable,
    example: Mapping[str, Any],
    reward: Reward | Mapping[str, Reward],
    *,
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    stop_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
    kl: float = 0.05,
    epochs: int = 4,
    minibatches: int = 1,
    discount: float = 1.0,
    trace: float = 0.95,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_weight: float = 0.1,
    reward_weights: Mapping[str, float] | None = None,
    term: str = "task",
    name: str = "rl.ppo",
) -> Method:
    """Learns from its own answers by advantages of every token over the value that was expected there.

    A token's reward is ``-kl · (log p_old - log p_reference)``, and at the last one the answer's reward besides. With
    generalised advantages ``A`` over the tokens, whitened over the batch, and returns ``R = A + V_old`` of before, the
    terms are the mean over all tokens of ``-min(ratio · A, clip(ratio, 1 ± clip) · A)`` and of ``value_weight · ½ ·
    max((V - R)², (V_old + clip(V - V_old, ±value_clip) - R)²)``. The values are a head's on the model's hidden states,
    ``params[name]``. Batches, rewards, evaluation and metrics are those of `ft_jax.rl.grpo`; besides there is the
    ``explained_variance`` of the values, and where a rollout serves several updates ``clip_fraction`` and ``old_kl``.

    Args:
      apply: a decoder's forward function.
      example: a batch of prompts, for its shape.
      reward: of an answer; several by name are summed.
      samples: answers a prompt.
      max_new_tokens, stop_tokens, pad_token: of the sampling.
      temperature: of the sampling and of the loss's probabilities; data in ``hyper`` unless the model caps its logits.
      kl: of the divergence from a snapshot of what learns at the start, in the reward; 0 has no reference.
      epochs, minibatches: as in `ft_jax.rl.grpo`.
      discount, trace: γ and λ over tokens.
      clip, value_clip: how far a probability may move, as a share, and a value.
      value_weight: of the values' term.
      reward_weights: of the rewards by name; 1 by default.
      term: of the loss inside, left out.
      name: the method's name.

    Raises:
      ValueError: settings that give no answers, or prompts too long.
      KeyError: a batch without ``input_ids``.

    Example:
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> ppo(model.apply, {"input_ids": jnp.ones((2, 4), jnp.int32)}, even_tokens).hyper["clip"]
      0.2
    """
    rewards = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    rollouts = Rollouts(apply, rewards, samples, max_new_tokens, temperature, tuple(stop_tokens), pad_token)
    rollouts.check(name)
    for what, value in (("epochs", epochs), ("minibatches", minibatches)):
        if value < 1:
            raise ValueError(f"{name} has {what}={value}; give at least 1")
    watched = ["reward", "reward_std", "unscored", "length", "entropy", "explained_variance"]
    watched += ["groups_without_signal"] if samples > 1 else []
    watched += [f"reward.{part}" for part in rewards] + (["kl"] if kl else [])

    def surgery(whole, key):
        outputs = jax.eval_shape(
            lambda params: apply(params, {"input_ids": example["input_ids"]}, None), whole["model"]
        )
        width = outputs.hidden.shape[-1]
        return {**whole, name: {"kernel": jnp.zeros(width), "bias": jnp.float32(0)}}

    def values_of(context, params, outputs):
        head = context.join(params)[name]
        return outputs.hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]

    def act(state, batch, context, had):
        numbers = context.hyper[name]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(context.key_for(name), each(context.rows(batch), samples))
        temperature = temperature_of({}, numbers)
        answers, sampled = rollouts.answers(context, state.params, batch, keys, temperature)
        weights = None if "weights" not in batch else jnp.repeat(batch["weights"], samples, axis=0)
        rows = rollouts.rows(answers, sampled, weights)
        if epochs * minibatches > 1:
            rows["temperature"] = jnp.broadcast_to(jnp.float32(temperature), answers.lengths.shape)
        found, parts = rollouts.scored(answers, numbers)
        found = found if weights is None else jnp.where(weights > 0, found, jnp.nan)
        told = told_of(found, parts, rows, answers.lengths, samples, context.axis)
        mask, plain = rows["weights"], context.replace(train=False)
        # An answer that could not be scored counts nothing.
        mask = mask * jnp.isfinite(found)[:, None]
        outputs = plain.run(apply, state.params, rows)
        rows["old"], rows["value"] = policy_tokens(outputs, rows, temperature), values_of(plain, state.params, outputs)
        last = mask * (jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1] == 1)
        paid = last * jnp.nan_to_num(found)[:, None]
        if kl:
            reference = policy_tokens(plain.run(apply, had["reference"], rows), rows, temperature)
            apart = mask * (rows["old"] - reference)
            paid = paid - numbers["kl"] * apart
            total, count = jnp.sum(apart), jnp.sum(mask)
            if context.axis is not None:
                total, count = jax.lax.psum((total, count), context.axis)
            told["kl"] = total / jnp.maximum(count, 1.0)
        values = mask * rows["value"]
        advantages = generalised(
            paid.T, values.T, jnp.zeros(len(found)), last.T, discount=numbers["discount"], trace=numbers["trace"]
        ).T  # fmt: skip
        rows |= {"return": values + advantages, "weights": mask, "labels": jnp.where(mask > 0, rows["labels"], -1)}
        rows["advantage"] = _whitened(mask * advantages, mask, context.axis)
        seen = rows["value"], rows["return"], rows["weights"]
        if context.axis is not None:
            seen = jax.lax.all_gather(seen, context.axis, tiled=True)
        told["explained_variance"] = policy_losses.explained_variance(*seen)
        rows.pop("sampler")
        return rows, {what: told[what] for what in watched}

    def memory(params, key):
        prompts, time = example["input_ids"].shape
        shape = (prompts * samples, time + max_new_tokens - 1)
        rows = {field: jnp.zeros(shape) for field in ("weights", "old", "value", "return", "advantage")}
        rows |= {field: jnp.zeros(shape, jnp.int32) for field in ("input_ids", "attention_mask", "labels")}
        rows |= {"temperature": jnp.zeros(shape[0]), **room_for(example, shape[0])}
        kept = {"told": dict.fromkeys(watched, jnp.float32(0))} | ({"rows": rows} if epochs * minibatches > 1 else {})
        return kept | ({"reference": jax.tree.map(jnp.copy, params)} if kl else {})

    def prepare(state, batch, context):
        if not context.train:
            return state, answered(rollouts, context, state, batch, name) if "labels" not in batch else batch
        rollouts.check_prompts(batch, name)
        return served(name, state, context, lambda had: act(state, batch, context, had), epochs, minibatches)

    def loss(inner):
        def surrogate(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "advantage" not in batch:
                return terms, outputs
            numbers = context.hyper[name]
            moved = policy_tokens(outputs, batch, temperature_of(batch, numbers)) - batch["old"]
            policy = policy_losses.clipped(moved, batch["advantage"], numbers["clip"], numbers["clip"])
            missed = policy_losses.clipped_values(
                values_of(context, params, outputs), batch["value"], batch["return"], numbers["value_clip"]
            )
            terms = scale_term(terms, term, None)
            value = numbers["value_weight"] * weighted_mean(missed, batch)
            if epochs * minibatches > 1:
                mask, limits = batch["weights"], (numbers["clip"], numbers["clip"])
                told = {"old_kl": policy_losses.old_divergence(moved, mask)}
                told["clip_fraction"] = policy_losses.clip_fraction(moved, batch["advantage"], *limits, mask)
                outputs = policy_losses.telling(outputs, name, told)
            return {**terms, f"{name}/policy": weighted_mean(policy, batch), f"{name}/value": value}, outputs

        return surrogate

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name]["told"].items()}

    hyper = {"discount": discount, "trace": trace, "clip": clip, "value_clip": value_clip}
    hyper |= rollouts.numbers | {"value_weight": value_weight} | ({"kl": kl} if kl else {})
    hyper |= {f"reward_{part}": (reward_weights or {}).get(part, 1.0) for part in rewards}
    return Method(
        name=name, hyper=hyper, surgery=surgery, memory=memory, prepare=prepare, loss=loss, drops=(term,),
        report=report, reads="examples", gives="prompts", refuses=only_source(name, "prompts"),
    )  # fmt: skip


def _whitened(advantages, mask, axis):
    """Whitened over the tokens of all devices."""
    if axis is None:
        return whitened(advantages, mask)
    everyone, counted = jax.lax.all_gather((advantages, mask), axis, tiled=True)
    found = whitened(everyone, counted)
    return jax.lax.dynamic_slice_in_dim(found, jax.lax.axis_index(axis) * len(mask), len(mask))
