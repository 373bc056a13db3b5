"""From logits to the next token: temperature, repetition penalty, top-k, top-p, min-p."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Numbers = dict[str, Array]
"""The restrictions' numbers; as data, so that changing them compiles nothing."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which restrictions are on.

    Attributes:
      greedy: the likeliest token is taken.
      repetition: tokens that were seen are penalised.
      top_k, top_p, min_p: unlikely tokens are ruled out.
    """

    greedy: bool
    repetition: bool = False
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False


def sampling_of(
    temperature, *, key=None, repetition_penalty=None, top_k=None, top_p=None, min_p=None
) -> tuple[Sampling, Numbers]:
    """The restrictions and their numbers, checked.

    Raises:
      ValueError: where a number is out of range, or sampling has no key.
    """
    traced = isinstance(temperature, jax.Array)
    if not traced and temperature < 0.0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or positive")
    if (traced or temperature > 0.0) and key is None:
        raise ValueError(f"temperature {temperature} samples and needs key=jax.random.key(...); or use temperature=0.0")
    numbers = {"top_k": (top_k, None), "top_p": (top_p, 1.0), "min_p": (min_p, 1.0)}
    for name, (number, most) in (numbers | {"repetition_penalty": (repetition_penalty, None)}).items():
        if number is not None and (number <= 0 or (most is not None and number > most)):
            raise ValueError(
                f"{name} is {number}; it must be positive" + ("" if most is None else f" and at most {most}")
            )
    greedy = not traced and temperature == 0.0
    on = {name: number is not None for name, (number, _) in numbers.items()}
    sampling = Sampling(greedy, repetition_penalty not in (None, 1.0), **on)
    return sampling, {
        "temperature": jnp.float32(1.0 if greedy else temperature),
        "repetition_penalty": jnp.float32(repetition_penalty or 1.0),
        "top_k": jnp.int32(top_k or 0),
        "top_p": jnp.float32(top_p or 0.0),
        "min_p": jnp.float32(min_p or 0.0),
    }


def log_probabilities(logits: Float[Array, "... vocabulary"], numbers: Numbers) -> Float[Array, "... vocabulary"]:
    """The model's own distribution at the sampling temperature, before any restriction."""
    return jax.nn.log_softmax(logits / numbers["temperature"], axis=-1)


def restricted(
    logits: Float[Array, "... vocabulary"],
    sampling: Sampling,
    numbers: Numbers,
    seen: Bool[Array, "... vocabulary"] | None = None,
) -> Float[Array, "... vocabulary"]:
    """Unnormalised log-probabilities of what is sampled from, -inf where a token is ruled out.

    Args:
      logits: the model's.
      sampling: which restrictions are on.
      numbers: theirs.
      seen: which tokens prompt and continuation hold already.
    """
    if sampling.repetition:
        logits = penalised(logits, seen, numbers["repetition_penalty"])
    if sampling.greedy:
        likeliest = jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(logits.shape[-1]) == likeliest, 0.0, -jnp.inf)
    scores = log_probabilities(logits, numbers)
    if sampling.min_p:
        likeliest = scores.max(axis=-1, keepdims=True)
        scores = jnp.where(scores >= likeliest + jnp.log(numbers["min_p"]), scores, -jnp.inf)
    if not (sampling.top_k or sampling.top_p):
        return scores
    ranked = jnp.sort(scores, axis=-1, descending=True)
    if sampling.top_k:
        rank = jnp.clip(numbers["top_k"] - 1, 0, scores.shape[-1] - 1)
        least = jax.lax.dynamic_slice_in_dim(ranked, rank, 1, axis=-1)
        scores, ranked = (jnp.where(x >= least, x, -jnp.inf) for x in (scores, ranked))
    if sampling.top_p:
        # A token stays while those before it hold less than top_p, so the likeliest always stays.
        probabilities = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.where(before < numbers["top_p"], ranked, jnp.inf).min(axis=-1, keepdims=True)
        scores = jnp.where(scores >= least, scores, -jnp.inf)
    return scores


def penalised(logits, seen, penalty):
    """Logits of tokens that were seen, divided by the penalty where positive, else multiplied by it.

    Keskar et al. 2019, "CTRL", arXiv:1909.05858, section 4.1, with the sign's distinction that transformers makes.

    Example:
      >>> penalised(jnp.array([2.0, -2.0, 2.0]), jnp.array([True, True, False]), 4.0).tolist()
      [0.5, -8.0, 2.0]
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(
    logits: Float[Array, "batch vocabulary"], key: jax.Array, sampling: Sampling, numbers: Numbers, seen=None
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """Tokens, and their log-probabilities before any restriction.

    Args:
      logits: the model's.
      key: one for all sequences, or ``[batch]``, one for each.
      sampling, numbers, seen: as in `restricted`.
    """
    scores = restricted(logits, sampling, numbers, seen)
    if sampling.greedy:
        token = jnp.argmax(scores, axis=-1)
    else:
        token = (jax.vmap(jax.random.categorical) if key.ndim else jax.random.categorical)(key, scores)
    own = jnp.take_along_axis(log_probabilities(logits, numbers), token[:, None], axis=1)[:, 0]
    return token.astype(jnp.int32), own
