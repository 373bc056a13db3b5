"""What a token of an answer costs under a policy gradient, and how tokens are averaged.

All arrays are ``[batch, time]`` unless said otherwise: ``log_probabilities`` of the answers' tokens under the policy
that learns, ``old`` under the one that wrote them, ``advantages`` ``[batch, 1]`` or a token, ``mask`` 1 on the
answers' tokens. ``ratio = exp(log_probabilities - old)``.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import TOLD, Outputs

Numbers = Mapping[str, Float[Array, ""] | float]


def log_ratios(
    log_probabilities: Float[Array, "batch time"],
    old: Float[Array, "batch time"],
    mask: Float[Array, "batch time"],
    level: str = "token",
) -> Float[Array, "batch _"]:
    """``log p - log p_old``: of each token, or averaged or summed over an answer.

    ``"token"`` is PPO's and GRPO's; ``"mean"`` is GSPO's, the geometric mean over the answer's tokens (Zheng et al.
    2025, arXiv:2507.18071, equation 7); ``"sum"`` is the whole answer's, RLOO's.

    Returns:
      ``[batch, time]``, or ``[batch, 1]`` of whole answers.

    Raises:
      ValueError: another level.

    Example:
      >>> log_ratios(jnp.array([[0.5, 0.25, 9.0]]), jnp.zeros((1, 3)), jnp.array([[1.0, 1.0, 0.0]]), "sum").tolist()
      [[0.75]]
    """
    difference = (log_probabilities - old) * mask
    if level == "token":
        return difference
    total = jnp.sum(difference, axis=1, keepdims=True)
    if level == "sum":
        return total
    if level == "mean":
        return total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0)
    raise ValueError(f"level is {level!r}; use 'token', 'mean' or 'sum'")


def clipped(log_ratio: Float[Array, "batch _"], advantages: Float[Array, "batch _"], low, high) -> Float[Array, "..."]:
    """PPO's surrogate: ``-min(ratio · A, clip(ratio, 1 - low, 1 + high) · A)``.

    Schulman et al. 2017, arXiv:1707.06347, equation 7; with ``high > low`` DAPO's clip-higher, Yu et al. 2025,
    arXiv:2503.14476, equation 10.
    """
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - low, 1.0 + high) * advantages)


def clip_fraction(log_ratio: Float[Array, "batch _"], advantages: Float[Array, "batch _"], low, high, mask) -> Array:
    """The share of each answer's tokens from which the clip takes the gradient: ``[batch]``, NaN without tokens.

    That is where ``ratio > 1 + high`` and ``A > 0``, or ``ratio < 1 - low`` and ``A < 0``: trl's ``clip_ratio``.

    Args:
      log_ratio, advantages, low, high: as `clipped` takes them; a ratio of whole answers counts for all their tokens.
      mask: ``[batch, time]``, above 0 on the tokens that count.

    Example:
      >>> one = jnp.log(jnp.array([[1.3, 0.7, 1.3, 9.0]]))
      >>> clip_fraction(one, jnp.array([[1.0]]), 0.2, 0.2, jnp.array([[1, 1, 0, 0]])).tolist()
      [0.5]
    """
    ratio = jnp.exp(log_ratio)
    taken = ((ratio > 1.0 + high) & (advantages > 0)) | ((ratio < 1.0 - low) & (advantages < 0))
    return _over_tokens(taken, mask)


def old_divergence(log_ratio: Float[Array, "batch time"], mask) -> Float[Array, " batch"]:
    """The mean over each answer's tokens of ``ratio - 1 - log ratio``, nats a token, NaN without tokens.

    How far the policy has gone from the one that acted, by the estimate of `divergence`: CleanRL's ``approx_kl``.

    Example:
      >>> old_divergence(jnp.zeros((2, 3)), jnp.array([[1, 1, 0], [0, 0, 0]])).tolist()
      [0.0, nan]
    """
    return _over_tokens(divergence(jnp.zeros_like(log_ratio), log_ratio), mask)


def _over_tokens(values, mask):
    counts = mask > 0
    count = jnp.sum(counts, axis=1)
    total = jnp.sum(jnp.where(counts, values, 0.0), axis=1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def telling(outputs: Outputs, name: str, told: Mapping[str, Float[Array, " batch"]]) -> Outputs:
    """Outputs that tell numbers of their rows for the step's metrics, see `ft_jax.core.outputs.TOLD`."""
    states = {f"{TOLD}{name}/{what}": jax.lax.stop_gradient(rows) for what, rows in told.items()}
    return dataclasses.replace(outputs, states={**outputs.states, **states})


def cispo(log_ratio, advantages, log_probabilities, most) -> Float[Array, "batch time"]:
    """CISPO: ``-stop_gradient(min(ratio, most)) · A · log p``, so no token's gradient is clipped away.

    MiniMax 2025, "MiniMax-M1", arXiv:2506.13585, equation 4.
    """
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio), most))
    return -weight * advantages * log_probabilities


def sapo(log_ratio, advantages, positive=1.0, negative=1.05) -> Float[Array, "batch time"]:
    """SAPO's smooth gate: ``-4 / τ · σ(τ · (ratio - 1)) · A``, with `positive` or `negative` as τ by the sign of A.

    Gao et al. 2025, arXiv:2511.20347, equations 5 and 6.
    """
    sharpness = jnp.where(advantages > 0, positive, negative)
    return -jax.nn.sigmoid(sharpness * (jnp.exp(log_ratio) - 1.0)) * 4.0 / sharpness * advantages


def divergence(log_probabilities, reference) -> Float[Array, "batch time"]:
    """Schulman's estimate of the divergence from a reference: ``exp(d) - d - 1`` with ``d = log p_ref - log p``.

    Never negative, and without bias where the tokens were drawn from p. http://joschu.net/blog/kl-approx.html, k3.
    """
    difference = reference - log_probabilities
    return jnp.exp(difference) - difference - 1.0


def truncated(old, sampler, mask, most) -> Float[Array, "batch time"]:
    """Truncated importance sampling: ``min(exp(old - sampler), most)``, where the sampler computes otherwise.

    The sampler may run in another precision than the policy whose `old` log-probabilities are formed by a forward
    pass. Yao et al. 2025, https://fengyao.notion.site/off-policy-rl.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp((old - sampler) * mask), most))


def high_entropy(entropies, mask, share) -> Float[Array, "batch time"]:
    """1 on the `share` of tokens with the highest entropy, else 0; ties with the last one count.

    Wang et al. 2025, "Beyond the 80/20 rule", arXiv:2506.01939, equation 7.

    Args:
      entropies: of the policy at each token, nats.
      mask: of the answers' tokens.
      share: such as 0.2.
    """
    known = jnp.where(mask > 0, entropies, jnp.nan)
    least = jnp.nanquantile(known, 1.0 - share)
    return jax.lax.stop_gradient(jnp.where((mask > 0) & (entropies >= least), 1.0, 0.0))


def averaging(mask: Float[Array, "batch time"], over: str, most: int | None = None) -> Float[Array, "batch time"]:
    """Weights of the tokens, whose weighted sum over the batch is the loss.

    ``"answers"``: the mean over an answer's tokens, then over answers, GRPO's. ``"tokens"``: the mean over all tokens,
    DAPO's. ``"length"``: the sum over tokens divided by the longest length an answer may have, then the mean over
    answers, Dr. GRPO's, which does not favour short answers.

    Args:
      mask: of the answers' tokens.
      over: one of these.
      most: tokens an answer may have, for ``"length"``.

    Raises:
      ValueError: another name, or ``"length"`` without `most`.

    Example:
      >>> averaging(jnp.array([[1.0, 0.0], [1.0, 1.0]]), "answers").tolist()
      [[0.5, 0.0], [0.25, 0.25]]
    """
    if over == "answers":
        return mask / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0) / mask.shape[0]
    if over == "tokens":
        return mask / jnp.maximum(jnp.sum(mask), 1.0)
    if over == "length":
        if most is None:
            raise ValueError("averaging over 'length' divides by the longest answer; give most=max_new_tokens")
        return mask / (mask.shape[0] * most)
    raise ValueError(f"over is {over!r}; use 'answers', 'tokens' or 'length'")


def clipped_values(values, old_values, returns, clip) -> Float[Array, "..."]:
    """PPO's value loss: ``½ · max((V - R)², (V_old + clip(V - V_old, ±clip) - R)²)``.

    The form of openai/baselines that Huang et al. 2022, "The 37 implementation details of PPO", point 9, describe.
    """
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (near - returns) ** 2)


def explained_variance(values, returns, where=None) -> Float[Array, ""]:
    """``1 - Var(returns - values) / Var(returns)``: 1 where values foresee the returns, 0 where they say nothing."""
    where = jnp.ones_like(values) if where is None else where
    total = jnp.maximum(jnp.sum(where), 1.0)

    def variance(x):
        return jnp.sum(where * (x - jnp.sum(where * x) / total) ** 2) / total

    return 1.0 - variance(returns - values) / jnp.maximum(variance(returns), 1e-8)
