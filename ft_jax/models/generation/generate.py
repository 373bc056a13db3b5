"""Autoregressive generation: one prefill, then a token a step over a cache of keys and values."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from ft_jax.core.outputs import logits_of
from ft_jax.models.generation.sampling import draw, sampling_of
from ft_jax.models.generation.stops import stops_of
from ft_jax.models.model import Forward, Model
from ft_jax.models.networks.decoder import DecoderConfig

PROMPT_MULTIPLE = 16
"""Prompts are padded to a multiple of this many tokens, so that nearby lengths share a compilation."""

NO_TOKEN = -2


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated; with several samples a prompt, a prompt's samples are neighbours.

    Attributes:
      tokens: ``[batch · samples, max_new_tokens]``, filled up with the pad token after the stop.
      lengths: ``[batch · samples]``, tokens up to and with the stop.
      log_probabilities: ``[batch · samples, max_new_tokens]`` of each token under the model's distribution at the
        sampling temperature (at temperature 1 when greedy), before penalty, top-k, top-p and min-p; 0 after the stop.
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
    repetition_penalty: float | None = None,
    samples: int = 1,
    stop_tokens=None,
    stop_sequences=(),
    pad_token: int | None = None,
    cache_sharding: jax.sharding.Sharding | None = None,
) -> Generation:
    """Continuations of a batch of prompts.

    Virtual tokens and prefixes of grafts come before the prompt, operators act as in the forward pass.

    Args:
      model: a decoder, or its ``apply``.
      params: its parameters, operators (adapters, quantised weights) and grafts allowed.
      input_ids: ``[batch, time]`` prompts.
      attention_mask: ``[batch, time]``, 1 = real token; padding may be on either side. None: all real.
      max_new_tokens: at most this many tokens each.
      key: for sampling; or ``[batch · samples]`` keys, one for each continuation, so that what is sampled does not
        depend on how a batch lies on devices.
      temperature: 0 takes the likeliest token; otherwise logits are divided by it.
      top_k: sample among the k likeliest.
      top_p: sample among the likeliest that together hold this probability (Holtzman et al. 2019, arXiv:1904.09751).
      min_p: sample among those with at least this share of the likeliest's probability.
      repetition_penalty: above 1, tokens of prompt and continuation become less likely (Keskar et al. 2019,
        arXiv:1909.05858).
      samples: continuations a prompt; they share the prefill.
      stop_tokens: ids that end a sequence, or a list of ids for each prompt; None for the model's.
      stop_sequences: lists of ids that end a sequence when generated one after another, or such lists for each prompt.
      pad_token: fills up after the stop; None for the model's.
      cache_sharding: of the cached keys and values ``[batch, slots, key_value_heads, head_width]``; None follows the
        parameters' mesh: heads over its axis ``tensor``, sequences over the others, as far as they divide.

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
    forward, stop_tokens, pad_token = defaults(model, stop_tokens, pad_token)
    ids, real = prompts(forward, input_ids, attention_mask, max_new_tokens)
    if samples < 1:
        raise ValueError(f"samples is {samples}; it must be at least 1")
    sampling, numbers = sampling_of(
        temperature, key=key, repetition_penalty=repetition_penalty, top_k=top_k, top_p=top_p, min_p=min_p
    )
    stops = stops_of(stop_tokens, stop_sequences, ids.shape[0]).repeated(samples)
    if cache_sharding is None:
        cache_sharding = _sharding_of(params, ids.shape[0], forward.config.key_value_heads)
    return _generate(
        forward, max_new_tokens, samples, sampling, cache_sharding, params, ids, real,
        jax.random.key(0) if sampling.greedy else key, numbers, stops, jnp.int32(pad_token),
    )  # fmt: skip


def defaults(model: Model | Forward, stop_tokens, pad_token):
    """The forward function, stop tokens and pad token, the model's where none are given."""
    whole = isinstance(model, Model)
    if stop_tokens is None:
        stop_tokens = model.stop_tokens if whole else ()
    if pad_token is None:
        pad_token = model.pad_token if whole else 0
    return model.apply if whole else model, stop_tokens, pad_token


def gives_tokens(forward: Callable) -> bool:
    """Whether it is a decoder that gives token logits, and has no other head."""
    decodes = isinstance(forward, Forward) and isinstance(forward.config, DecoderConfig)
    return decodes and forward.pooling is None and forward.kind is None


def prompts(forward: Forward, input_ids, attention_mask, new: int) -> tuple[Array, Array]:
    """Prompts and their masks, checked and padded on the left to nearby lengths' common one.

    Raises:
      ValueError: where the model is no decoder, a prompt is empty, or the sequence is too long.
    """
    if not gives_tokens(forward):
        raise ValueError(
            "generate needs a decoder that gives token logits; this model is another kind, or has another head"
        )
    ids = jnp.asarray(input_ids, jnp.int32)
    real = jnp.ones_like(ids) if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
    if ids.ndim != 2 or real.shape != ids.shape:
        raise ValueError(f"input_ids {ids.shape} and attention_mask {real.shape} must both be [batch, time]")
    if new < 1:
        raise ValueError(f"max_new_tokens is {new}; it must be at least 1")
    if ids.shape[1] + new > forward.config.positions:
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens and {new} new ones exceed the {forward.config.positions} the model "
            "takes; shorten one of them"
        )
    if not isinstance(real, jax.core.Tracer) and not np.asarray(real.sum(axis=1) > 0).all():
        raise ValueError("a prompt has no real token (attention_mask is all 0); give each at least one")
    room = forward.config.positions - new - ids.shape[1]
    extra = min(-ids.shape[1] % PROMPT_MULTIPLE, room)
    ids, real = (jnp.pad(array, ((0, 0), (extra, 0))) for array in (ids, real))
    return left_padded(ids, real)


def left_padded(ids: Int[Array, "batch time"], real: Array) -> tuple[Array, Array]:
    """Tokens and their mask with all padding on the left, so that an answer follows its prompt.

    Example:
      >>> left_padded(jnp.array([[5, 6, 0]]), jnp.array([[1, 1, 0]]))[0].tolist()
      [[0, 5, 6]]
    """
    # A stable sort by "is real" keeps the tokens' order.
    order = jnp.argsort(real > 0, axis=1, stable=True)
    return jnp.take_along_axis(ids, order, axis=1), jnp.take_along_axis(real, order, axis=1)


def prefill(forward: Forward, params, ids, real, slots: int, *, ahead: int = 0, sharding=None):
    """The prompt in one pass.

    Args:
      forward: of the decoder.
      params: its parameters.
      ids: ``[batch, prompt]``, padded on the left.
      real: ``[batch, prompt]``, 1 = real token.
      slots: of the cache, prompt included.
      ahead: see ``Decoder.empty_caches``.
      sharding: of the caches, or None.

    Returns:
      The logits after the last token ``[batch, vocabulary]``, the caches, and which slots hold a real token or
      have room for one ``[batch, slots]``.
    """
    module, prompt = forward.module(params), ids.shape[1]
    caches = constrained(module.empty_caches(ids.shape[0], slots, ahead), sharding)
    filled = jnp.pad(real > 0, ((0, 0), (0, slots - prompt)), constant_values=True)
    causal = jnp.arange(slots)[None, :] <= jnp.arange(prompt)[:, None]
    positions = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
    hidden, caches = module.step(ids, positions, filled[:, None, None, :] & causal, caches, 0)
    return unembedded(forward, params, hidden[:, -1]), caches, filled


def unembedded(forward: Forward, params, hidden):
    """Logits of hidden states."""
    return logits_of(hidden, forward.head(params), forward.config.logit_softcap)


def constrained(caches, sharding):
    """`caches`, told where to be."""
    if sharding is None:
        return caches
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), caches)


def _sharding_of(params, batch: int, heads: int) -> NamedSharding | None:
    """A cache's sharding on the mesh of the parameters; None where they are on no mesh."""
    meshes = (
        leaf.sharding.mesh
        for leaf in jax.tree.leaves(params)
        if not isinstance(leaf, jax.core.Tracer) and isinstance(getattr(leaf, "sharding", None), NamedSharding)
    )
    mesh = next((mesh for mesh in meshes if mesh.size > 1), None)
    if mesh is None:
        return None
    split = "tensor" if mesh.shape.get("tensor", 1) > 1 and heads % mesh.shape["tensor"] == 0 else None
    rows: tuple[str, ...] = ()
    for axis, size in mesh.shape.items():
        together = size * int(np.prod([mesh.shape[name] for name in rows]))
        if axis != "tensor" and size > 1 and batch % together == 0:
            rows = (*rows, axis)
    return NamedSharding(mesh, PartitionSpec(rows or None, None, split))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _generate(forward, new, samples, sampling, sharding, params, ids, real, key, numbers, stops, pad_token):
    prompt, slots = ids.shape[1], ids.shape[1] + new
    logits, caches, filled = prefill(forward, params, ids, real, slots, sharding=sharding)
    seen = None
    if sampling.repetition:
        rows = jnp.arange(ids.shape[0])[:, None]
        seen = jnp.zeros(logits.shape, jnp.int32).at[rows, ids].max(real) > 0
    module = forward.module(params)
    logits, caches, filled, lengths, seen = jax.tree.map(
        lambda x: jnp.repeat(x, samples, axis=0), (logits, caches, filled, real.sum(axis=1), seen)
    )

    def advance(token, index, caches):
        slot = prompt + index - 1
        allowed = (filled & (jnp.arange(slots) <= slot))[:, None, None, :]
        hidden, caches = module.step(token, (lengths + index - 1)[:, None], allowed, caches, slot)
        return unembedded(forward, params, hidden[:, 0]), caches

    caches = constrained(caches, sharding)
    return continued(logits, caches, advance, new, key, sampling, numbers, stops, pad_token, seen)


def continued(logits, state, advance, new: int, key, sampling, numbers, stops, pad_token, seen=None) -> Generation:
    """A token a step until every sequence has stopped, or `new` of them.

    Args:
      logits: for the first token, ``[batch, vocabulary]``.
      state: whatever `advance` keeps, such as caches.
      advance: ``(last tokens [batch, 1], index of the next, state) -> (logits, state)``.
      new: how many tokens at most.
      key, sampling, numbers: see `ft_jax.models.generation.sampling.draw`.
      stops: where sequences end.
      pad_token: what fills up after the end.
      seen: ``[batch, vocabulary]``, the tokens that were there before; None where nothing asks for them.
    """

    def record(written, logits, index):
        """Samples token `index` of the sequences that go on."""
        tokens, scores, done, counts, recent, seen = written
        own = jax.vmap(jax.random.fold_in, (0, None))(key, index) if key.ndim else jax.random.fold_in(key, index)
        token, score = draw(logits, own, sampling, numbers, seen)
        token, score = jnp.where(done, pad_token, token), jnp.where(done, 0.0, score)
        counts = counts + ~done
        recent = jnp.concatenate([recent[:, 1:], token[:, None]], axis=1)
        if seen is not None:
            seen = seen | (jnp.arange(seen.shape[1]) == token[:, None])
        done = done | stops.met(recent)
        return tokens.at[:, index].set(token), scores.at[:, index].set(score), done, counts, recent, seen

    def more(carry):
        index, written, _ = carry
        return (index < new) & ~written[2].all()

    def step(carry):
        index, written, state = carry
        last = jax.lax.dynamic_slice_in_dim(written[0], index - 1, 1, axis=1)
        logits, state = advance(last, index, state)
        return index + 1, record(written, logits, index), state

    batch = logits.shape[0]
    empty = (
        jnp.full((batch, new), pad_token, jnp.int32),
        jnp.zeros((batch, new), jnp.float32),
        jnp.zeros((batch,), bool),
        jnp.zeros((batch,), jnp.int32),
        jnp.full((batch, stops.longest), NO_TOKEN, jnp.int32),
        seen,
    )
    carry = (jnp.int32(1), record(empty, logits, 0), state)
    _, (tokens, scores, _, counts, *_), _ = jax.lax.while_loop(more, step, carry)
    return Generation(tokens, counts, scores)
