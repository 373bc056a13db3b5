"""From rewards to advantages: by groups of answers, leave-one-out, over the batch, and over time.

Answers to one prompt are a *group* and neighbours in the batch: rewards ``[groups · size]``. A reward that is NaN
belongs to an answer that could not be scored; it counts in no mean and its advantage is 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TINY = 1e-4
"""Added to a group's standard deviation, as in trl and verl."""


def grouped(rewards: Float[Array, " batch"], size: int) -> Float[Array, "groups size"]:
    """Rewards by group.

    Raises:
      ValueError: a group of one, which has nothing to compare with, or a batch that does not divide into groups.

    Example:
      >>> grouped(jnp.array([1.0, 0.0, 1.0, 1.0]), 2).tolist()
      [[1.0, 0.0], [1.0, 1.0]]
    """
    if size < 2:
        raise ValueError(
            f"samples is {size}; an answer is compared with the others of its group, so give at least 2, or an "
            "estimator that needs no group ('reinforce', 'reinforce_plus_plus', 'gae')"
        )
    if rewards.shape[0] % size:
        raise ValueError(f"{rewards.shape[0]} rewards are no whole groups of {size}; change samples or the batch size")
    return rewards.reshape(-1, size)


def _mean(values, where, axis=None, keepdims=False):
    count = jnp.maximum(jnp.sum(where, axis=axis, keepdims=keepdims), 1)
    return jnp.sum(jnp.where(where, values, 0.0), axis=axis, keepdims=keepdims) / count


def _deviation(values, where, axis=None, keepdims=False):
    """The sample standard deviation, over one less than the count."""
    count = jnp.sum(where, axis=axis, keepdims=keepdims)
    apart = jnp.where(where, values - _mean(values, where, axis, True), 0.0)
    # The root's gradient is never asked for: advantages are constants of the loss.
    return jnp.sqrt(jnp.sum(apart**2, axis=axis, keepdims=keepdims) / jnp.maximum(count - 1, 1))


def group_relative(rewards: Float[Array, " batch"], size: int, *, scale: str = "group") -> Float[Array, " batch"]:
    """GRPO: ``(reward - mean of its group) / (standard deviation + 1e-4)``.

    Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, section 4.1.2.

    Args:
      rewards: of answers, a group's neighbours.
      size: answers a group.
      scale: ``"group"``; ``"batch"`` divides by the deviation of all rewards (Liu et al. 2025, arXiv:2508.08221);
        ``"none"`` by nothing (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783).

    Raises:
      ValueError: groups of one, or an unknown `scale`.

    Example:
      >>> [round(float(one), 3) for one in group_relative(jnp.array([1.0, 0.0, 1.0, 1.0]), 2)]
      [0.707, -0.707, 0.0, 0.0]
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale is {scale!r}; use 'group', 'batch' or 'none'")
    groups = grouped(rewards, size)
    known = jnp.isfinite(groups)
    advantages = groups - _mean(groups, known, 1, True)
    if scale == "group":
        advantages = advantages / (_deviation(groups, known, 1, True) + TINY)
    if scale == "batch":
        advantages = advantages / (_deviation(groups, known) + TINY)
    return jnp.where(known, advantages, 0.0).reshape(-1)


def leave_one_out(rewards: Float[Array, " batch"], size: int) -> Float[Array, " batch"]:
    """RLOO: a reward less the mean of the other answers of its group.

    Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740, equation 8.

    Example:
      >>> leave_one_out(jnp.array([1.0, 0.0, 1.0, 1.0]), 2).tolist()
      [1.0, -1.0, 0.0, 0.0]
    """
    groups = grouped(rewards, size)
    known = jnp.isfinite(groups)
    count = jnp.sum(known, axis=1, keepdims=True)
    advantages = (groups - _mean(groups, known, 1, True)) * count / jnp.maximum(count - 1, 1)
    return jnp.where(known, advantages, 0.0).reshape(-1)


def whitened(
    values: Float[Array, "..."], where: Float[Array, "..."] | None = None, *, centre: bool = True
) -> Float[Array, "..."]:
    """Values less their mean, over their deviation, both over the positions that count.

    REINFORCE++ whitens the advantages of the whole batch (Hu et al. 2025, arXiv:2501.03262, equation 9), PPO those
    of a rollout.

    Args:
      values: of any shape.
      where: which count, of the same shape; all by default.
      centre: False keeps the mean.

    Example:
      >>> [round(float(one), 3) for one in whitened(jnp.array([1.0, 2.0, 3.0, 50.0]), jnp.array([1, 1, 1, 0]))]
      [-1.0, 0.0, 1.0, 0.0]
    """
    known = jnp.isfinite(values) if where is None else jnp.isfinite(values) & (where > 0)
    mean = _mean(values, known)
    scaled = (values - mean) / (_deviation(values, known) + 1e-8)
    return jnp.where(known, scaled if centre else scaled + mean, 0.0)


def reinforce_plus_plus(
    rewards: Float[Array, " batch"], size: int = 1, *, baseline: bool = False
) -> Float[Array, " batch"]:
    """REINFORCE++: rewards whitened over the batch; with `baseline`, less the mean of their group first.

    Hu et al. 2025, arXiv:2501.03262, equations 9 and 10.

    Example:
      >>> [round(float(one), 3) for one in reinforce_plus_plus(jnp.array([1.0, 0.0, 2.0, 1.0]))]
      [0.0, -1.225, 1.225, 0.0]
    """
    if baseline:
        rewards = group_relative(rewards, size, scale="none")
    return whitened(rewards)


def generalised(
    rewards: Float[Array, "time ..."],
    values: Float[Array, "time ..."],
    next_value: Float[Array, "..."],
    ends: Float[Array, "time ..."],
    *,
    discount: float | Float[Array, ""] = 0.99,
    trace: float | Float[Array, ""] = 0.95,
    cuts: Float[Array, "time ..."] | None = None,
    final_values: Float[Array, "time ..."] | None = None,
) -> Float[Array, "time ..."]:
    """Generalised advantage estimates: ``A_t = δ_t + discount · trace · (1 - end_t) · A_{t+1}``.

    ``δ_t = reward_t + discount · (1 - end_t) · V_{t+1} - V_t``. Schulman et al. 2015, arXiv:1506.02438, equation 16.

    Args:
      rewards: for what was done at each time.
      values: of what was seen at each time.
      next_value: of what is seen after the last.
      ends: 1 where the episode ended by itself after that time: nothing follows.
      discount, trace: γ and λ.
      cuts: 1 where the episode was cut there by a time limit: what would have followed has the value `final_values`,
        and the estimate does not run on into the next episode.
      final_values: ``[time, ...]`` of what was seen last where an episode was cut.

    Example:
      >>> reward, value = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.4, 0.3])
      >>> found = generalised(reward, value, jnp.array(0.2), jnp.array([0, 0, 1]), discount=0.9)
      >>> [round(float(one), 4) for one in found]
      [4.4326, 4.1785, 2.7]
    """
    following = jnp.concatenate([values[1:], next_value[None]])
    on = 1.0 - ends
    runs = on
    if cuts is not None:
        following = jnp.where(cuts > 0, final_values, following)
        runs = on * (1.0 - cuts)
    deltas = rewards + discount * on * following - values

    def back(advantage, now):
        delta, run = now
        advantage = delta + discount * trace * run * advantage
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(next_value), (deltas, runs), reverse=True)[1]


def to_go(rewards: Float[Array, "batch time"], discount: float = 1.0) -> Float[Array, "batch time"]:
    """What is still to come from each time on: ``Σ_{s ≥ t} discount^(s - t) · reward_s``, REINFORCE's return.

    Example:
      >>> to_go(jnp.array([[1.0, 0.0, 2.0]])).tolist()
      [[3.0, 2.0, 2.0]]
    """

    def back(total, reward):
        total = reward + discount * total
        return total, total

    return jax.lax.scan(back, jnp.zeros(rewards.shape[0]), rewards.T, reverse=True)[1].T


def overlong_penalty(lengths: Float[Array, " batch"], most: int, buffer: int) -> Float[Array, " batch"]:
    """DAPO's soft punishment of long answers: 0 up to ``most - buffer`` tokens, then down to -1 at `most`.

    Yu et al. 2025, arXiv:2503.14476, equation 13.

    Example:
      >>> overlong_penalty(jnp.array([4, 8, 9, 10]), most=10, buffer=4).tolist()
      [0.0, -0.5, -0.75, -1.0]
    """
    return jnp.clip((most - buffer - lengths) / buffer, -1.0, 0.0)
