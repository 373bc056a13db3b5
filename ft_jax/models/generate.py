"""Autoregressive generation: one prefill, then a token a step over a cache of keys and values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ft_jax.core.outputs import logits_of
from ft_jax.models.decoder import DecoderConfig
from ft_jax.models.model import Forward, Model

PROMPT_MULTIPLE = 16
"""Prompts are padded to a multiple of this many tokens, so that nearby lengths share a compilation."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated; with several samples a prompt, a prompt's samples are neighbours.

    Attributes:
      tokens: ``[batch · samples, max_new_tokens]``, filled up with the pad token after the stop token.
      lengths: ``[batch · samples]``, tokens up to and with the stop token.
      log_probabilities: ``[batch · samples, max_new_tokens]`` of each token under the distribution at the
        sampling temperature (at temperature 1 when greedy), before top-k, top-p and min-p; 0 after the stop.
    """

    tokens: Int[Array, "batch new"]
    lengths: Int[Array, " batch"]
    log_probabilities: Float[Array, "batch new"]


jax.tree_util.register_dataclass(Generation, data_fields=["tokens", "lengths", "log_probabilities"], meta_fields=[])


def generate(
    model: Model | Forward,
    params,
    input_ids,
    attention_mask=None,
    *,
    max_new_tokens: int,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    samples: int = 1,
    stop_tokens: tuple[int, ...] | None = None,
    pad_token: int | None = None,
) -> Generation:
    """Continuations of a batch of prompts.

    Args:
      model: a decoder, or its ``apply``.
      params: its parameters, operators (adapters, quantised weights) allowed.
      input_ids: ``[batch, time]`` prompts.
      attention_mask: ``[batch, time]``, 1 = real token; padding may be on either side. None: all real.
      max_new_tokens: at most this many tokens each.
      key: for sampling.
      temperature: 0 takes the likeliest token; otherwise logits are divided by it.
      top_k: sample among the k likeliest.
      top_p: sample among the likeliest that together hold this probability (Holtzman et al. 2019, arXiv:1904.09751).
      min_p: sample among those with at least this share of the likeliest's probability.
      samples: continuations a prompt; they share the prefill.
      stop_tokens: ids that end a sequence; None for the model's.
      pad_token: fills up after the stop; None for the model's.

    Raises:
      ValueError: where the model is no decoder, a number is out of range, a prompt is empty, the sequence
        would be longer than the model takes, or sampling has no key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> generate(model, model.params, jnp.ones((2, 3), jnp.int32), max_new_tokens=5).tokens.shape
      (2, 5)
    """
    forward = model.apply if isinstance(model, Model) else model
    if stop_tokens is None:
        stop_tokens = model.stop_tokens if isinstance(model, Model) else ()
    if pad_token is None:
        pad_token = model.pad_token if isinstance(model, Model) else 0
    ids = jnp.asarray(input_ids, jnp.int32)
    real = jnp.ones_like(ids) if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
    _check(forward, ids, real, max_new_tokens, key, temperature, top_k, top_p, min_p, samples)
    room = forward.config.positions - max_new_tokens - ids.shape[1]
    extra = min(-ids.shape[1] % PROMPT_MULTIPLE, room)
    ids, real = (jnp.pad(array, ((0, 0), (extra, 0))) for array in (ids, real))
    greedy = not isinstance(temperature, jax.Array) and temperature == 0.0
    sampling = _Sampling(greedy, top_k is not None, top_p is not None, min_p is not None)
    numbers = {
        "temperature": jnp.float32(1.0 if greedy else temperature),
        "top_k": jnp.int32(top_k or 0),
        "top_p": jnp.float32(top_p or 0.0),
        "min_p": jnp.float32(min_p or 0.0),
    }
    return _generate(
        forward, max_new_tokens, samples, sampling, params, ids, real,
        jax.random.key(0) if greedy else key, numbers,
        jnp.asarray(stop_tokens, jnp.int32).reshape(-1), jnp.int32(pad_token),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """Which restrictions are on; their numbers are data."""

    greedy: bool
    top_k: bool
    top_p: bool
    min_p: bool


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(forward, new, samples, sampling, params, ids, real, key, numbers, stop_tokens, pad_token):
    # A stable sort by "is real" moves all padding to the left and keeps the tokens' order.
    order = jnp.argsort(real, axis=1, stable=True)
    ids, real = jnp.take_along_axis(ids, order, axis=1), jnp.take_along_axis(real, order, axis=1)
    config, head = forward.config, forward.head(params)
    module = forward.module(params)
    prompt, slots = ids.shape[1], ids.shape[1] + new
    shape = (ids.shape[0], slots, config.key_value_heads, config.head_width)
    caches = {str(i): (jnp.zeros(shape, config.dtype),) * 2 for i in range(config.layers)}
    filled = jnp.pad(real > 0, ((0, 0), (0, new)), constant_values=True)
    causal = jnp.arange(slots)[None, :] <= jnp.arange(prompt)[:, None]
    positions = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
    hidden, caches = module.step(ids, positions, filled[:, None, None, :] & causal, caches, 0)
    lengths = real.sum(axis=1)
    logits, caches, filled, lengths = jax.tree.map(
        lambda x: jnp.repeat(x, samples, axis=0), (logits_of(hidden[:, -1], head), caches, filled, lengths)
    )

    def record(state, logits, index):
        """Samples token `index` of the sequences that go on."""
        tokens, scores, done, counts = state
        token, score = _sample(logits, jax.random.fold_in(key, index), sampling, numbers)
        token, score = jnp.where(done, pad_token, token), jnp.where(done, 0.0, score)
        counts = counts + ~done
        done = done | jnp.isin(token, stop_tokens)
        return (tokens.at[:, index].set(token), scores.at[:, index].set(score), done, counts)

    batch = logits.shape[0]
    state = (
        jnp.full((batch, new), pad_token, jnp.int32),
        jnp.zeros((batch, new), jnp.float32),
        jnp.zeros((batch,), bool),
        jnp.zeros((batch,), jnp.int32),
    )
    state = record(state, logits, 0)

    def more(carry):
        index, state, _ = carry
        return (index < new) & ~state[2].all()

    def advance(carry):
        index, state, caches = carry
        slot = prompt + index - 1
        allowed = (filled & (jnp.arange(slots) <= slot))[:, None, None, :]
        token = state[0][:, index - 1]
        hidden, caches = module.step(token[:, None], (lengths + index - 1)[:, None], allowed, caches, slot)
        return index + 1, record(state, logits_of(hidden[:, 0], head), index), caches

    _, (tokens, scores, _, counts), _ = jax.lax.while_loop(more, advance, (jnp.int32(1), state, caches))
    return Generation(tokens, counts, scores)


def _sample(logits, key, sampling, numbers):
    """Tokens ``[batch]`` and their log-probabilities before any restriction."""
    scores = jax.nn.log_softmax(logits / numbers["temperature"], axis=-1)
    token = jnp.argmax(logits, axis=-1) if sampling.greedy else jax.random.categorical(
        key, _restricted(scores, sampling, numbers)
    )  # fmt: skip
    token = token.astype(jnp.int32)
    return token, jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]


def _restricted(scores, sampling, numbers):
    """`scores` with -inf where top-k, top-p or min-p rules a token out."""
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


def _check(forward, ids, real, new, key, temperature, top_k, top_p, min_p, samples):
    if not isinstance(forward, Forward) or not isinstance(forward.config, DecoderConfig) or forward.pooling is not None:
        raise ValueError(
            "generate needs a decoder that gives token logits; this model is another kind, or has a classifier"
        )
    if ids.ndim != 2 or real.shape != ids.shape:
        raise ValueError(f"input_ids {ids.shape} and attention_mask {real.shape} must both be [batch, time]")
    if new < 1 or samples < 1:
        raise ValueError(f"max_new_tokens is {new} and samples {samples}; both must be at least 1")
    if ids.shape[1] + new > forward.config.positions:
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens and {new} new ones exceed the {forward.config.positions} the model "
            "takes; shorten one of them"
        )
    if not isinstance(real, jax.core.Tracer) and not np.asarray(real.sum(axis=1) > 0).all():
        raise ValueError("a prompt has no real token (attention_mask is all 0); give each at least one")
    if not isinstance(temperature, jax.Array) and temperature < 0.0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or positive")
    if (isinstance(temperature, jax.Array) or temperature > 0.0) and key is None:
        raise ValueError(f"temperature {temperature} samples and needs key=jax.random.key(...); or use temperature=0.0")
    for name, number, top in (("top_k", top_k, None), ("top_p", top_p, 1.0), ("min_p", min_p, 1.0)):
        if number is not None and (number <= 0 or (top is not None and number > top)):
            raise ValueError(
                f"{name} is {number}; it must be positive" + ("" if top is None else f" and at most {top}")
            )
