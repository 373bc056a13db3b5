"""Generation conditioned on more than a prompt: an encoder's text, sound, images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.outputs import logits_of
from ft_jax.models.generation.generate import Generation, continued, defaults
from ft_jax.models.generation.sampling import sampling_of
from ft_jax.models.generation.stops import stops_of
from ft_jax.models.model import MODULES, Forward, Model


def generate_from(
    model: Model | Forward,
    params,
    batch,
    *,
    max_new_tokens: int,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_tokens: tuple[int, ...] | None = None,
    pad_token: int | None = None,
) -> Generation:
    """What an encoder-decoder answers to a batch, or how a vision-language model goes on after its prompts.

    The batch is encoded once and its keys and values are kept; then a token a step, under one jit.

    Args:
      model: an encoder-decoder (T5, Whisper) or a vision-language model, or its ``apply``.
      params: its parameters, operators allowed.
      batch: what the model reads. Of an encoder-decoder, ``decoder_input_ids`` ``[batch, time]``, all real, are the
        beginning of the answer where they are given; by default it is the start token.
      max_new_tokens: at most this many tokens each.
      key: for sampling.
      temperature: 0 takes the likeliest token; otherwise logits are divided by it.
      top_k, top_p, min_p: as in `ft_jax.models.generate`.
      stop_tokens: ids that end a sequence; None for the model's.
      pad_token: fills up after the stop; None for the model's.

    Raises:
      ValueError: where the model doesn't generate so, a number is out of range, or sampling has no key.
      KeyError: where the batch lacks what the model reads.
    """
    forward, stop_tokens, pad_token = defaults(model, stop_tokens, pad_token)
    if not hasattr(MODULES.get(type(forward.config)), "begin") or forward.pooling or forward.kind:
        raise ValueError(
            "generate_from needs an encoder-decoder or a vision-language model that gives token logits; this model is "
            "another kind, or has another head (a plain decoder generates with ft_jax.models.generate)"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    forward.check(batch)
    batch = {name: jnp.asarray(field) for name, field in batch.items() if name not in ("labels", "weights")}
    sampling, numbers = sampling_of(temperature, key=key, top_k=top_k, top_p=top_p, min_p=min_p)
    rows = next(iter(batch.values())).shape[0]
    stops = stops_of(tuple(np.asarray(stop_tokens).reshape(-1).tolist()), [], rows)
    key = jax.random.key(0) if sampling.greedy else key
    return _generate(forward, max_new_tokens, sampling, params, batch, key, numbers, stops, jnp.int32(pad_token))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(forward, new, sampling, params, batch, key, numbers, stops, pad_token):
    module = forward.module(params)

    def logits(hidden):
        config = getattr(forward.config, "language", forward.config)
        return logits_of(hidden, forward.head(params), getattr(config, "logit_softcap", None))

    def advance(last, index, state):
        hidden, state = module.advance(last, state)
        return logits(hidden), state

    hidden, state = module.begin(batch, new)
    return continued(logits(hidden), state, advance, new, key, sampling, numbers, stops, pad_token)
