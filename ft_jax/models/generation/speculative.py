"""Speculative decoding: a small model drafts tokens, the large one verifies several in one pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.models.generation.generate import NO_TOKEN, Generation, defaults, prefill, prompts, unembedded
from ft_jax.models.generation.sampling import draw, log_probabilities, restricted, sampling_of
from ft_jax.models.generation.stops import stops_of
from ft_jax.models.model import Forward, Model


@dataclasses.dataclass(frozen=True)
class Speculation:
    """What was generated, and how well the draft guessed.

    Attributes:
      generation: distributed as the target model's own.
      rounds: ``[batch]``, how many passes of the target model each sequence took after its prompt.
      accepted: ``[batch]``, how many drafted tokens it kept; each round gives one token more.
    """

    generation: Generation
    rounds: Int[Array, " batch"]
    accepted: Int[Array, " batch"]


jax.tree_util.register_dataclass(Speculation, data_fields=["generation", "rounds", "accepted"], meta_fields=[])


def speculate(
    model: Model | Forward,
    params,
    draft: Model | Forward,
    draft_params,
    input_ids,
    attention_mask=None,
    *,
    max_new_tokens: int,
    draft_tokens: int = 4,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_tokens=None,
    pad_token: int | None = None,
) -> Speculation:
    """Continuations of the target model, of which a draft model guesses several tokens before each of its passes.

    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192,
    algorithm 1: the draft's token ``x ~ q`` is kept with probability ``min(1, p(x) / q(x))``; at the first that is
    not, one is drawn from ``max(p - q, 0)``, normalised, and after a whole draft from ``p``. So tokens are
    distributed as if the target sampled alone, and greedy ones are the target's own. Temperature, top-k, top-p and
    min-p act on both distributions (its section 2.2).

    Args:
      model: the target, a decoder or its ``apply``.
      params: its parameters, operators and grafts allowed.
      draft: a smaller decoder over the same vocabulary.
      draft_params: its parameters.
      input_ids: ``[batch, time]`` prompts.
      attention_mask: ``[batch, time]``, 1 = real token; padding may be on either side. None: all real.
      max_new_tokens: at most this many tokens each.
      draft_tokens: guessed before each pass of the target.
      key, temperature, top_k, top_p, min_p: as in `ft_jax.models.generate`.
      stop_tokens: ids that end a sequence, or a list of ids for each prompt; None for the model's.
      pad_token: fills up after the stop; None for the model's.

    Raises:
      ValueError: where a model is no decoder, their vocabularies differ, a number is out of range, a prompt is
        empty, or the sequence would be longer than a model takes.

    Example:
      >>> from ft_jax import models
      >>> model, draft = (models.tiny_decoder(jax.random.key(seed)) for seed in range(2))
      >>> prompt = jnp.ones((1, 3), jnp.int32)
      >>> fast = speculate(model, model.params, draft, draft.params, prompt, max_new_tokens=5)
      >>> alone = models.generate(model, model.params, prompt, max_new_tokens=5)
      >>> bool((fast.generation.tokens == alone.tokens).all())
      True
    """
    forward, stop_tokens, pad_token = defaults(model, stop_tokens, pad_token)
    small = draft.apply if isinstance(draft, Model) else draft
    if draft_tokens < 1:
        raise ValueError(f"draft_tokens is {draft_tokens}; it must be at least 1")
    prompts(small, input_ids, attention_mask, max_new_tokens)
    ids, real = prompts(forward, input_ids, attention_mask, max_new_tokens)
    if small.config.vocabulary != forward.config.vocabulary:
        raise ValueError(
            f"the draft has {small.config.vocabulary} tokens and the target {forward.config.vocabulary}; "
            "they need the same tokenizer and vocabulary"
        )
    sampling, numbers = sampling_of(temperature, key=key, top_k=top_k, top_p=top_p, min_p=min_p)
    stops = stops_of(stop_tokens, (), ids.shape[0])
    return _speculate(
        forward, small, max_new_tokens, draft_tokens, sampling, params, draft_params, ids, real,
        jax.random.key(0) if sampling.greedy else key, numbers, stops, jnp.int32(pad_token),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _speculate(forward, small, new, guesses, sampling, params, draft_params, ids, real, key, numbers, stops, pad_token):
    batch, prompt = ids.shape
    # A round may go on for `guesses` tokens beyond the last that counts.
    slots = prompt + new + guesses
    target, drafter = forward.module(params), small.module(draft_params)
    logits, caches, filled = prefill(forward, params, ids, real, slots, ahead=guesses)
    _, draft_caches, _ = prefill(small, draft_params, ids, real, slots, ahead=guesses)
    lengths = real.sum(axis=1)
    last = min(forward.config.positions, small.config.positions) - 1

    def step(module, tokens, counts, caches):
        """New tokens after as many as `counts` says; the last of those is the first of `tokens`."""
        first = prompt + counts - 1
        own = first[:, None] + jnp.arange(tokens.shape[1])
        allowed = filled[:, None, None, :] & (jnp.arange(slots) <= own[:, None, :, None])
        positions = jnp.minimum(own - prompt + lengths[:, None], last)
        return module.step(tokens, positions, allowed, caches, first)

    def drafted(tokens, counts, caches, key):
        """`guesses` tokens of the draft and the distributions they were drawn from."""

        def guess(carry, index):
            token, caches = carry
            hidden, caches = step(drafter, token[:, None], counts + index, caches)
            scores = restricted(unembedded(small, draft_params, hidden[:, 0]), sampling, numbers)
            token = jax.random.categorical(jax.random.fold_in(key, index), scores).astype(jnp.int32)
            return (token, caches), (token, jax.nn.softmax(scores, axis=-1))

        # One step more than there are guesses, so that the last guess is in the draft's cache too.
        (_, caches), (found, q) = jax.lax.scan(guess, (tokens, caches), jnp.arange(guesses + 1))
        return jnp.moveaxis(found, 0, 1)[:, :guesses], jnp.moveaxis(q, 0, 1)[:, :guesses], caches

    def round_(carry):
        number, state, caches, draft_caches = carry
        tokens, scores, done, counts, rounds, accepted = state
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        current = jnp.take_along_axis(tokens, counts[:, None] - 1, axis=1)
        found, q, draft_caches = drafted(current[:, 0], counts, draft_caches, keys[0])
        hidden, caches = step(target, jnp.concatenate([current, found], axis=1), counts, caches)
        logits = unembedded(forward, params, hidden)
        p = jax.nn.softmax(restricted(logits, sampling, numbers), axis=-1)
        kept, emitted = _judged(found, q, p, keys[1], keys[2])
        own = jnp.take_along_axis(log_probabilities(logits, numbers), emitted[..., None], axis=-1)[..., 0]
        ends = (emitted[..., None] == stops.sequences[:, None, :, -1]).any(axis=-1)
        place = jnp.arange(guesses + 1)
        before = jnp.cumsum(ends, axis=1) - ends
        taken = (place <= kept[:, None]) & (before == 0) & ~done[:, None]
        at = jnp.where(taken, counts[:, None] + place, tokens.shape[1])
        rows = jnp.arange(batch)[:, None]
        state = (
            tokens.at[rows, at].set(emitted, mode="drop"),
            scores.at[rows, at].set(own, mode="drop"),
            done | (taken & ends).any(axis=1) | (counts + taken.sum(axis=1) >= new),
            counts + taken.sum(axis=1),
            rounds + ~done,
            accepted + jnp.where(done, 0, kept),
        )
        return number + 1, state, caches, draft_caches

    token, score = draw(logits, jax.random.fold_in(key, 0), sampling, numbers)
    room = new + guesses
    done = (token[:, None] == stops.sequences[:, :, -1]).any(axis=1) | (new == 1)
    nothing = jnp.zeros((batch,), jnp.int32)
    state = (
        jnp.full((batch, room), NO_TOKEN, jnp.int32).at[:, 0].set(token),
        jnp.zeros((batch, room), jnp.float32).at[:, 0].set(score),
        done, nothing + 1, nothing, nothing,
    )  # fmt: skip
    carry = (jnp.int32(1), state, caches, draft_caches)
    _, state, _, _ = jax.lax.while_loop(lambda carry: ~carry[1][2].all(), round_, carry)
    tokens, scores, _, counts, rounds, accepted = state
    counts = jnp.minimum(counts, new)
    held = jnp.arange(new) < counts[:, None]
    generation = Generation(jnp.where(held, tokens[:, :new], pad_token), counts, jnp.where(held, scores[:, :new], 0.0))
    return Speculation(generation, rounds, accepted)


def _judged(
    found: Int[Array, "batch guesses"],
    q: Float[Array, "batch guesses vocabulary"],
    p: Float[Array, "batch guesses+1 vocabulary"],
    judge: jax.Array,
    redraw: jax.Array,
) -> tuple[Int[Array, " batch"], Int[Array, "batch guesses+1"]]:
    """How many guesses are kept, and they with the token that follows them (and anything after it).

    Algorithm 1 of the paper: guess ``i`` is kept while ``r < p(x) / q(x)`` for ``r ~ U[0, 1)``.
    """
    at = found[..., None]
    guesses = found.shape[1]
    odds = jnp.take_along_axis(p[:, :guesses], at, axis=-1)[..., 0]
    proposed = jnp.take_along_axis(q, at, axis=-1)[..., 0]
    good = jax.random.uniform(judge, found.shape) * proposed < odds
    kept = jnp.cumprod(good, axis=1).sum(axis=1)
    beyond = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
    here = kept[:, None, None]
    p_here, q_here = (jnp.take_along_axis(x, here, axis=1)[:, 0] for x in (p, beyond))
    rest = jnp.maximum(p_here - q_here, 0.0)
    # Rounding can leave nothing where p and q agree; the rejection that led here is then as rare as the rounding.
    rest = jnp.where(rest.sum(axis=-1, keepdims=True) > 0, rest, p_here)
    follower = jax.random.categorical(redraw, jnp.log(rest)).astype(jnp.int32)
    padded = jnp.pad(found, ((0, 0), (0, 1)))
    return kept, jnp.where(jnp.arange(guesses + 1) == kept[:, None], follower[:, None], padded)
