"""Generation that hands over each token as it is drawn."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.models.generation.generate import defaults, prefill, prompts, unembedded
from ft_jax.models.generation.sampling import draw, sampling_of
from ft_jax.models.model import Forward, Model


def stream(
    model: Model | Forward,
    params,
    input_ids,
    *,
    max_new_tokens: int,
    key: jax.Array | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_tokens=None,
) -> Iterator[int]:
    """The tokens that `ft_jax.models.generate` gives for one prompt, each as soon as it is drawn.

    Args:
      model: a decoder, or its ``apply``.
      params: its parameters, operators and grafts allowed.
      input_ids: ``[time]`` of one prompt, all real.
      max_new_tokens, key, temperature, top_k, top_p, min_p, stop_tokens: as there.

    Yields:
      Token ids, a stop token last where one is drawn.

    Raises:
      ValueError: as there.

    Example:
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> whole = models.generate(model, model.params, jnp.ones((1, 3), jnp.int32), max_new_tokens=4)
      >>> list(stream(model, model.params, [1, 1, 1], max_new_tokens=4)) == whole.tokens[0].tolist()
      True
    """
    forward, stop_tokens, _ = defaults(model, stop_tokens, None)
    ids, real = prompts(forward, np.asarray(input_ids, np.int32)[None], None, max_new_tokens)
    sampling, numbers = sampling_of(temperature, key=key, top_k=top_k, top_p=top_p, min_p=min_p)
    key = jax.random.key(0) if sampling.greedy else key
    slots = ids.shape[1] + max_new_tokens
    token, caches, filled = _begin(forward, slots, sampling, params, ids, real, key, numbers)
    for index in range(1, max_new_tokens + 1):
        drawn = int(token[0])
        yield drawn
        if drawn in stop_tokens or index == max_new_tokens:
            return
        place = (real.sum(axis=1), jnp.int32(index))
        token, caches = _next(forward, ids.shape[1], sampling, params, token, caches, filled, place, key, numbers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(forward, slots, sampling, params, ids, real, key, numbers):
    logits, caches, filled = prefill(forward, params, ids, real, slots)
    return draw(logits, jax.random.fold_in(key, 0), sampling, numbers)[0], caches, filled


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=5)
def _next(forward, prompt, sampling, params, token, caches, filled, place, key, numbers):
    lengths, index = place
    slot = prompt + index - 1
    allowed = (filled & (jnp.arange(filled.shape[1]) <= slot))[:, None, None, :]
    module = forward.module(params)
    hidden, caches = module.step(token[:, None], (lengths + index - 1)[:, None], allowed, caches, slot)
    logits = unembedded(forward, params, hidden[:, 0])
    return draw(logits, jax.random.fold_in(key, index), sampling, numbers)[0], caches
