"""Reward-ranked fine-tuning: learning the best of one's own answers."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.rl.online.grpo import even_tokens, prompts_of
from ft_jax.rl.online.policy_gradient import answered, each
from ft_jax.rl.online.rewards import Reward
from ft_jax.rl.online.rollouts import Rollouts, told_of
from ft_jax.rl.sources import only_source


@register(
    "rl",
    paper="Dong et al. 2023, arXiv:2304.06767, algorithm 1; best-of-n is Stiennon et al. 2020, arXiv:2009.01325",
    needs=("input_ids", "attention_mask"),
    example=lambda problem: raft(problem.apply, even_tokens, samples=2, max_new_tokens=4),
    batch=prompts_of,
    neutral="its batch is what the policy says, so there is no step without it to equal",
)
def raft(
    apply: Callable,
    reward: Reward | Mapping[str, Reward],
    *,
    samples: int = 8,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    stop_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
    least: float | None = None,
    reward_weights: Mapping[str, float] | None = None,
    name: str = "rl.raft",
) -> Method:
    """Answers every prompt several times and learns the best answer by the loss inside: best-of-n, distilled.

    The batch, rewards, evaluation and metrics are those of `ft_jax.rl.grpo`. What is learned is
    ``cross_entropy(best answer)`` of each prompt, with the best by the weighted sum of rewards.

    Args:
      apply: a decoder's forward function.
      reward: of an answer; several by name are summed.
      samples: answers a prompt, of which the best is kept.
      max_new_tokens, stop_tokens, pad_token: of the sampling.
      temperature: of the sampling; data in ``hyper``.
      least: answers with a lower reward are not learned, even where they are the best; None learns all.
      reward_weights: of the rewards by name; 1 by default.
      name: the method's name.

    Raises:
      ValueError: settings that give no answers, or prompts too long.
      KeyError: a batch without ``input_ids``.

    Example:
      >>> from ft_jax import models
      >>> raft(models.tiny_decoder(jax.random.key(0)).apply, even_tokens).hyper
      {'temperature': 1.0, 'reward_reward': 1.0}
    """
    rewards = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    rollouts = Rollouts(apply, rewards, samples, max_new_tokens, temperature, tuple(stop_tokens), pad_token)
    rollouts.check(name)
    watched = ["reward", "reward_std", "unscored", "length", "groups_without_signal", "entropy"]
    watched += [f"reward.{part}" for part in rewards]

    def prepare(state, batch, context):
        if not context.train:
            return state, answered(rollouts, context, state, batch, name) if "labels" not in batch else batch
        rollouts.check_prompts(batch, name)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(context.key_for(name), each(context.rows(batch), samples))
        temperature = context.hyper[name].get("temperature")
        answers, sampled = rollouts.answers(context, state.params, batch, keys, temperature)
        weights = None if "weights" not in batch else jnp.repeat(batch["weights"], samples, axis=0)
        rows = rollouts.rows(answers, sampled, weights)
        found, parts = rollouts.scored(answers, context.hyper[name])
        found = found if weights is None else jnp.where(weights > 0, found, jnp.nan)
        told = told_of(found, parts, rows, answers.lengths, samples, context.axis)
        known = jnp.where(jnp.isfinite(found), found, -jnp.inf).reshape(-1, samples)
        best = jnp.arange(known.shape[0]) * samples + jnp.argmax(known, axis=1)
        rows = {field: x[best] for field, x in rows.items() if field != "sampler"}
        learned = jnp.max(known, axis=1) >= (jnp.finfo(jnp.float32).min if least is None else least)
        rows["weights"] = rows["weights"] * learned[:, None]
        return state.remember(name, {"told": told}), rows

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name]["told"].items()}

    return Method(
        name=name,
        hyper=rollouts.numbers | {f"reward_{part}": (reward_weights or {}).get(part, 1.0) for part in rewards},
        memory=lambda params, key: {"told": dict.fromkeys(watched, jnp.float32(0))},
        prepare=prepare,
        report=report,
        reads="examples",
        gives="prompts",
        refuses=only_source(name, "prompts"),
    )
