"""Group-relative policy optimisation and its relatives, RLOO and REINFORCE."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import nearest
from ft_jax.rl import advantages
from ft_jax.rl.online.policy_gradient import Recipe, policy_gradient
from ft_jax.rl.online.rewards import Reward
from ft_jax.rl.online.rollouts import Rollouts

unscaled = functools.partial(advantages.group_relative, scale="none")

RECIPES: Mapping[str, Recipe] = {
    "grpo": Recipe(advantages.group_relative),
    "bnpo": Recipe(advantages.group_relative, over="tokens"),
    "dr_grpo": Recipe(unscaled, over="length"),
    "dapo": Recipe(advantages.group_relative, over="tokens", high=0.28, drops_flat=True),
    "cispo": Recipe(advantages.group_relative, surrogate="cispo", over="tokens", high=5.0),
    "gspo": Recipe(advantages.group_relative, level="mean", low=3e-4, high=4e-4),
    "sapo": Recipe(advantages.group_relative, surrogate="sapo"),
    "rloo": Recipe(advantages.leave_one_out, level="sum"),
    "reinforce": Recipe(lambda rewards, size: jnp.nan_to_num(rewards), surrogate="reinforce", over="sum"),
    "reinforce_plus_plus": Recipe(lambda rewards, size: advantages.reinforce_plus_plus(rewards), over="tokens"),
    "reinforce_plus_plus_baseline": Recipe(
        lambda rewards, size: advantages.reinforce_plus_plus(rewards, size, baseline=True), over="tokens"
    ),
}
"""Policy gradients by name; `grpo` says which papers they are of."""


def even_tokens(answers):
    """The share of even tokens in an answer, a reward for examples."""
    said = jnp.arange(answers.tokens.shape[1]) < answers.lengths[:, None]
    return jnp.sum(said & (answers.tokens % 2 == 0), axis=1) / answers.lengths


OUTLINE = {"input_ids": np.zeros((8, 6), np.int32)}
"""A batch of prompts as examples have it."""


def prompts_of(batch):
    """A problem's batch as prompts."""
    real = (batch["weights"] > 0).astype(jnp.int32)
    return {"input_ids": batch["input_ids"], "attention_mask": real, "weights": jnp.ones(real.shape[0])}


@register(
    "rl",
    paper="Shao et al. 2024, 'DeepSeekMath', arXiv:2402.03300, equation 3; of the variants see the documentation",
    needs=("input_ids", "attention_mask"),
    example=lambda problem: grpo(problem.apply, OUTLINE, even_tokens, samples=2, max_new_tokens=4, kl=0.1),
    batch=prompts_of,
    neutral="its batch is what the policy says, so there is no step without it to equal",
)
def grpo(
    apply: Callable,
    example: Mapping[str, Any],
    reward: Reward | Mapping[str, Reward],
    *,
    variant: str = "grpo",
    samples: int = 8,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    stop_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
    kl: float = 0.0,
    kl_in_reward: bool = False,
    epochs: int = 1,
    minibatches: int = 1,
    low: float | None = None,
    high: float | None = None,
    correction: float | None = None,
    entropy_share: float = 1.0,
    overlong: int | None = None,
    keep: int | None = None,
    sft: float | None = None,
    reward_weights: Mapping[str, float] | None = None,
    term: str = "task",
    name: str = "rl.grpo",
) -> Method:
    """Learns from its own answers to prompts: what was rewarded more than the other answers becomes likelier.

    In the step the policy answers every prompt `samples` times, the answers are scored, and an answer's advantage is
    ``A = (reward - mean of its group) / (standard deviation + 1e-4)``. The term is the mean over answers of the mean
    over an answer's tokens of ``-min(ratio · A, clip(ratio, 1 - low, 1 + high) · A) + kl · (exp(d) - d - 1)`` with
    ``ratio = p / p_old`` of a token and ``d = log p_reference - log p``. The policy that answers is the one that
    learns, adapters and all, over the same base.

    Variants:

    - ``"grpo"``: as above. ``"bnpo"``: the mean over all tokens.
    - ``"dr_grpo"``: no division by the deviation; an answer's sum over `max_new_tokens` (Liu et al. 2025, 2503.20783).
    - ``"dapo"``: ``high = 0.28``, the mean over all tokens, groups whose rewards are equal count nothing; `overlong`
      and `keep` are its further parts (Yu et al. 2025, 2503.14476).
    - ``"cispo"``: ``-stop_gradient(min(ratio, high)) · A · log p`` (MiniMax 2025, 2506.13585).
    - ``"gspo"``: the ratio is the answer's, its geometric mean over tokens (Zheng et al. 2025, 2507.18071).
    - ``"sapo"``: a smooth gate in place of the clip (Gao et al. 2025, 2511.20347).
    - ``"rloo"``: A is the reward less the mean of the others; the ratio is the whole answer's (Ahmadian et al. 2024,
      2402.14740).
    - ``"reinforce"``: ``-reward · log p(answer)`` (Williams 1992).
    - ``"reinforce_plus_plus"``: rewards whitened over the batch, and ``"reinforce_plus_plus_baseline"``: less their
      group's mean before (Hu et al. 2025, 2501.03262).

    The batch is of prompts: ``input_ids`` and ``attention_mask`` ``[prompts, time]`` padded on either side, ``weights``
    ``[prompts]`` where some are padding, with whatever the reward reads, such as ``answer``. Batches of an evaluation
    are answered with the likeliest tokens, and have ``reward`` and ``tokens``; those that have ``labels`` are passed on
    to the loss inside. The whole of a rollout serves ``epochs · minibatches`` updates; batches of prompts between are
    passed over. A part ``demonstrations`` of the batch, examples with labels, is learned beside (CHORD, Zhang et al.
    2025, 2508.11408). In the step's metrics are ``reward``, its spread and parts, ``length``, ``entropy``,
    ``groups_without_signal`` and ``kl``; where a rollout serves several updates ``clip_fraction``, the mean share of an
    answer's tokens that the clip gives no gradient, and ``old_kl``, the divergence from the policy that answered.

    Args:
      apply: a decoder's forward function.
      example: a batch of prompts, for its shape.
      reward: ``Answers -> [answers]``, on the device or by `ft_jax.rl.online.on_host`; several by name are summed.
      variant: one of the above.
      samples: answers a prompt, a group.
      max_new_tokens: of an answer.
      temperature: of the sampling; probabilities in the loss are at this temperature too, that of their rollout. Data
        in ``hyper``, unless the model caps its logits and it is 1.
      stop_tokens, pad_token: see `ft_jax.models.generate`.
      kl: of the divergence from a snapshot of what learns at the start; 0 has no reference at all.
      kl_in_reward: the divergence is taken off the reward instead.
      epochs: how often a rollout is gone through.
      minibatches: that it is cut into.
      low, high: how far a ratio may move; the variant's by default.
      correction: truncated importance sampling for a sampler that computes otherwise than the forward pass: the most
        weight (Yao et al. 2025); None for none.
      entropy_share: only this share of tokens, the most uncertain, learns (Wang et al. 2025, 2506.01939).
      overlong: DAPO's soft punishment over the last so many tokens.
      keep: of the groups of a rollout the first so many that have a signal are learned from, DAPO's dynamic sampling
        with a fixed number of prompts.
      sft: of the demonstrations.
      reward_weights: of the rewards by name; 1 by default.
      term: of the loss inside, left out.
      name: the method's name.

    Raises:
      ValueError: an unknown variant, groups of one where they are compared, no decoder, or prompts too long.
      KeyError: a batch without ``input_ids``.

    Example:
      >>> import jax
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> prompts = {"input_ids": jnp.ones((2, 4), jnp.int32)}
      >>> grpo(model.apply, prompts, even_tokens, variant="dapo", samples=4).hyper["low"]
      0.2
    """
    if variant not in RECIPES:
        raise ValueError(f"{name} has no variant {variant!r}; the nearest are {nearest(variant, RECIPES)}")
    recipe = RECIPES[variant]
    limits = {"low": recipe.low if low is None else low, "high": recipe.high if high is None else high}
    recipe = Recipe(**{**vars(recipe), **limits})
    rewards = dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    rollouts = Rollouts(apply, rewards, samples, max_new_tokens, temperature, tuple(stop_tokens), pad_token, overlong)
    return policy_gradient(
        name, recipe, rollouts, example, kl=kl, kl_in_reward=kl_in_reward, epochs=epochs, minibatches=minibatches,
        correction=correction, entropy_share=entropy_share, sft=sft, term=term, reward_weights=reward_weights,
        keep=keep,
    )  # fmt: skip
