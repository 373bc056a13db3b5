"""One method for the policy gradients of language models: roll out, score, compare, learn."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ft_jax.core.batches import weighted_mean
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.rl import policy_losses
from ft_jax.rl.online.rollouts import Rollouts, Rows, entropies, policy_tokens, room_for, temperature_of, told_of
from ft_jax.rl.online.serving import served
from ft_jax.rl.sources import only_source

DEMONSTRATIONS = "demonstrations"
"""The part of a batch with examples to learn beside the rollouts."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What tells one policy gradient from another.

    Attributes:
      advantages: ``(rewards [answers], answers a group) -> [answers]``.
      surrogate: ``"clipped"``, ``"cispo"``, ``"sapo"`` or ``"reinforce"``.
      level: of the ratios, see `ft_jax.rl.policy_losses.log_ratios`.
      over: how tokens are averaged, see `ft_jax.rl.policy_losses.averaging`.
      low, high: how far a ratio may fall and rise; for CISPO `high` is the most weight.
      drops_flat: groups whose rewards are all equal count nothing, DAPO's dynamic sampling.
    """

    advantages: Callable[[Array, int], Array]
    surrogate: str = "clipped"
    level: str = "token"
    over: str = "answers"
    low: float = 0.2
    high: float = 0.2
    drops_flat: bool = False


def policy_gradient(
    name: str,
    recipe: Recipe,
    rollouts: Rollouts,
    example: Mapping[str, Any],
    *,
    kl: float,
    kl_in_reward: bool,
    epochs: int,
    minibatches: int,
    correction: float | None,
    entropy_share: float,
    sft: float | None,
    term: str,
    reward_weights: Mapping[str, float] | None,
    keep: int | None,
) -> Method:
    """The method of a recipe; `ft_jax.rl.online.grpo` documents the arguments."""
    rollouts.check(name)
    for what, value in (("epochs", epochs), ("minibatches", minibatches)):
        if value < 1:
            raise ValueError(f"{name} has {what}={value}; give at least 1")
    if not 0 < entropy_share <= 1:
        raise ValueError(f"{name} has entropy_share={entropy_share}; give a share of tokens above 0 and at most 1")
    if keep is not None and not 1 <= keep <= example["input_ids"].shape[0]:
        raise ValueError(
            f"{name} has keep={keep} of the groups of {example['input_ids'].shape[0]} prompts; give at least 1 and no "
            "more than there are prompts"
        )
    recipe.advantages(jnp.zeros(rollouts.samples), rollouts.samples)
    if not hasattr(rollouts.apply, "config"):
        raise ValueError(f"{name} samples with ft_jax.models.generate, which takes a decoder's apply; give it one")
    period = epochs * minibatches
    samples = rollouts.samples
    again = correction is not None or entropy_share < 1 or period > 1
    watched = ["reward", "reward_std", "unscored", "length", "entropy"] + (
        ["groups_without_signal"] if samples > 1 else []
    )
    watched += [f"reward.{part}" for part in rollouts.rewards]
    watched += (["reward.overlong"] if rollouts.overlong is not None else []) + (["kl"] if kl else [])

    def made(state, batch, context) -> tuple[Rows, dict[str, Array]]:
        """The rows of a rollout, and what is told of it."""
        rollouts.check_prompts(batch, name)
        numbers = context.hyper[name]
        rows = context.rows(batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(context.key_for(name), each(rows, samples))
        temperature = temperature_of({}, numbers)
        answers, sampled = rollouts.answers(context, state.params, batch, keys, temperature)
        weights = None if "weights" not in batch else jnp.repeat(batch["weights"], samples, axis=0)
        found = rollouts.rows(answers, sampled, weights)
        if period > 1:
            found["temperature"] = jnp.broadcast_to(jnp.float32(temperature), answers.lengths.shape)
        plain = context.replace(train=False)
        rewards, parts = rollouts.scored(answers, numbers)
        if weights is not None:
            rewards = jnp.where(weights > 0, rewards, jnp.nan)
        told = told_of(rewards, parts, found, answers.lengths, samples, context.axis)
        if kl:
            outputs = plain.run(rollouts.apply, context.memory[name]["reference"], found)
            found["reference"] = policy_tokens(outputs, found, temperature)
            apart = policy_losses.divergence(found["sampler"], found["reference"])
            total, count = jnp.sum(found["weights"] * apart), jnp.sum(found["weights"])
            if context.axis is not None:
                total, count = jax.lax.psum((total, count), context.axis)
            told["kl"] = total / jnp.maximum(count, 1.0)
            if kl_in_reward:
                rewards = rewards - numbers["kl"] * jnp.sum(found["sampler"] - found["reference"], axis=1)
        found |= _compared(rewards, recipe, samples, context)
        if recipe.drops_flat or keep is not None:
            found = _with_signal(found, samples, keep)
        if again:
            outputs = plain.run(rollouts.apply, state.params, found)
            found["old"] = policy_tokens(outputs, found, temperature)
            if correction is not None:
                found["trust"] = policy_losses.truncated(
                    found["old"], found["sampler"], found["weights"], numbers["correction"]
                )
            if entropy_share < 1:
                found["kept"] = _uncertain(
                    entropies(outputs, temperature), found["weights"], context.axis, entropy_share
                )
        return found, {what: told[what] for what in watched}

    def memory(params, key):
        kept = {"told": dict.fromkeys(watched, jnp.float32(0))}
        if kl:
            kept["reference"] = jax.tree.map(jnp.copy, params)
        if period > 1:
            kept["rows"] = _empty(example, rollouts, keep, kl, correction, entropy_share)
        return kept

    def prepare(state, batch, context):
        if not context.train:
            return state, answered(rollouts, context, state, batch, name) if "labels" not in batch else batch
        batch = dict(batch)
        demonstrations = batch.pop(DEMONSTRATIONS, None)
        state, rows = served(name, state, context, lambda had: made(state, batch, context), epochs, minibatches)
        rows = dict(rows)
        rows.pop("sampler", None)
        if demonstrations is not None:
            rows[DEMONSTRATIONS] = demonstrations
        return state, rows

    def loss(inner):
        def surrogate(params, batch, context):
            if "advantage" not in batch:
                return inner(params, batch, context)
            batch = dict(batch)
            demonstrations = batch.pop(DEMONSTRATIONS, None)
            numbers, mask = context.hyper[name], batch["weights"]
            terms, outputs = inner(params, batch, context)
            own = policy_tokens(outputs, batch, temperature_of(batch, numbers))
            old = batch.get("old", jax.lax.stop_gradient(own))
            ratio = policy_losses.log_ratios(own, old, mask, recipe.level)
            per_token = _surrogate(recipe, ratio, batch["advantage"][:, None], own, numbers)
            per_token = per_token * batch.get("trust", 1.0) * batch.get("kept", 1.0)
            if kl and not kl_in_reward:
                apart = policy_losses.divergence(own, batch["reference"])
                per_token = jnp.broadcast_to(per_token, apart.shape) + numbers["kl"] * apart
            terms = {**scale_term(terms, term, None), name: _averaged(per_token, batch, recipe, rollouts)}
            if demonstrations is not None and sft is not None:
                shown, _ = inner(params, demonstrations, context)
                terms |= {f"{name}/{DEMONSTRATIONS}": numbers["sft"] * shown[term]}
            if period > 1:
                told = {"old_kl": policy_losses.old_divergence(own - old, mask)}
                if recipe.surrogate == "clipped":
                    advantage, limits = batch["advantage"][:, None], (numbers["low"], numbers["high"])
                    told["clip_fraction"] = policy_losses.clip_fraction(ratio, advantage, *limits, mask)
                outputs = policy_losses.telling(outputs, name, told)
            return terms, outputs

        return surrogate

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name]["told"].items()}

    hyper = {"low": recipe.low, "high": recipe.high}
    hyper |= rollouts.numbers
    hyper |= {f"reward_{part}": (reward_weights or {}).get(part, 1.0) for part in rollouts.rewards}
    hyper |= {"kl": kl} if kl else {}
    hyper |= {"correction": correction} if correction is not None else {}
    hyper |= {"sft": sft} if sft is not None else {}
    return Method(
        name=name, hyper=hyper, memory=memory, prepare=prepare, loss=loss, drops=(term,),
        report=report, reads="examples", gives="prompts", refuses=only_source(name, "prompts"),
    )  # fmt: skip


def each(rows, samples):
    """Numbers of the answers to prompts of these numbers."""
    return (rows[:, None] * samples + jnp.arange(samples)).reshape(-1)


def _compared(rewards, recipe, samples, context) -> Rows:
    """Advantages of this device's answers, compared with those of all."""
    everyone = rewards if context.axis is None else jax.lax.all_gather(rewards, context.axis, tiled=True)
    advantages = recipe.advantages(everyone, samples)
    groups = everyone.reshape(-1, samples)
    apart = jnp.nanmax(groups, axis=1) - jnp.nanmin(groups, axis=1) > 1e-6
    signal = jnp.repeat(apart, samples).astype(jnp.float32)
    if context.axis is not None:
        at = jax.lax.axis_index(context.axis) * rewards.shape[0]
        advantages, signal = (jax.lax.dynamic_slice_in_dim(x, at, rewards.shape[0]) for x in (advantages, signal))
    return {"reward": rewards, "advantage": advantages, "signal": signal}


def _with_signal(rows: Rows, samples: int, keep: int | None) -> Rows:
    """Rows whose groups without signal count nothing, or the first `keep` groups that have one."""
    weights = rows["weights"] * rows["signal"][:, None]
    rows = {**rows, "weights": weights, "labels": jnp.where(weights > 0, rows["labels"], -1)}
    if keep is None:
        return rows
    groups = rows["signal"].reshape(-1, samples)[:, 0]
    first = jnp.argsort(-groups, stable=True)[:keep]
    return jax.tree.map(lambda x: x[each(first, samples)], rows)


def _uncertain(entropy, weights, axis, share):
    everyone, counted = (entropy, weights) if axis is None else jax.lax.all_gather((entropy, weights), axis, tiled=True)
    kept = policy_losses.high_entropy(everyone, counted, share)
    if axis is None:
        return kept
    return jax.lax.dynamic_slice_in_dim(kept, jax.lax.axis_index(axis) * entropy.shape[0], entropy.shape[0])


def _surrogate(recipe, ratio, advantages, own, numbers):
    if recipe.surrogate == "clipped":
        return policy_losses.clipped(ratio, advantages, numbers["low"], numbers["high"])
    if recipe.surrogate == "cispo":
        return policy_losses.cispo(ratio, advantages, own, numbers["high"])
    if recipe.surrogate == "sapo":
        return policy_losses.sapo(ratio, advantages)
    return -advantages * own


def _averaged(per_token, batch, recipe, rollouts):
    if recipe.over == "tokens":
        return weighted_mean(jnp.broadcast_to(per_token, batch["weights"].shape), batch)
    mask = (batch["weights"] > 0).astype(jnp.float32)
    total = jnp.sum(mask * per_token, axis=1)
    if recipe.over == "length":
        return weighted_mean(total / rollouts.max_new_tokens, batch)
    if recipe.over == "sum":
        return weighted_mean(total, batch)
    return weighted_mean(total / jnp.maximum(jnp.sum(mask, axis=1), 1.0), batch)


def answered(rollouts, context, state, batch, name) -> Rows:
    """The likeliest answer to each prompt of an evaluation, with its ``reward``."""
    rollouts.check_prompts(batch, name)
    answers, _ = rollouts.answers(context, state.params, batch, None)
    rewards, parts = rollouts.scored(answers, context.hyper[name])
    told = {"reward": rewards, "tokens": answers.tokens, "lengths": answers.lengths}
    told |= {f"reward.{part}": value for part, value in parts.items()}
    return {**rollouts.rows(answers, None, batch.get("weights")), **told}


def _empty(example, rollouts, keep, kl, correction, entropy_share) -> Rows:
    """Rows of a rollout before there was one."""
    prompts, time = example["input_ids"].shape
    count = (prompts if keep is None else keep) * rollouts.samples
    shape = (count, time + rollouts.max_new_tokens - 1)
    fields = ["weights", "sampler", "old"] + (["reference"] if kl else [])
    fields += (["trust"] if correction is not None else []) + (["kept"] if entropy_share < 1 else [])
    whole = {field: jnp.zeros(shape) for field in fields}
    whole |= {field: jnp.zeros(shape, jnp.int32) for field in ("input_ids", "attention_mask", "labels")}
    whole |= room_for(example, count)
    return whole | {field: jnp.zeros(count) for field in ("reward", "advantage", "signal", "temperature")}
