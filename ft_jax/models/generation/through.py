"""Generation through a forward pass of one's own, where a cache of keys and values would not know what it does."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params
from ft_jax.core.state import Context
from ft_jax.models.generation.generate import Generation, continued, generate, left_padded
from ft_jax.models.generation.sampling import sampling_of
from ft_jax.models.generation.stops import stops_of


def _itself(forward):
    return forward


def generate_by(
    context: Context,
    apply: Callable,
    params: Params,
    input_ids,
    attention_mask,
    fields: Mapping[str, Array] | None = None,
    **how,
) -> Generation:
    """Continuations by the policy in training, inside a method: over a cache, or through the forward pass.

    Args:
      context: of the method's step.
      apply: the model's.
      params: the tree that learns.
      input_ids, attention_mask: prompts.
      fields: what a method's forward pass may read of a prompt.
      how: as `ft_jax.models.generate` takes it.
    """
    if context.network(_itself) is _itself:
        return generate(apply, context.join(params)["model"], input_ids, attention_mask, **how)
    # A method's forward pass may look at the example, which a cache knows nothing of.
    plain = context.replace(train=False)
    return generate_through(
        lambda batch: plain.run(apply, params, batch), input_ids, attention_mask, fields=fields, **how
    )


def generate_through(
    run: Callable[[Mapping[str, Array]], Outputs],
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
    stop_tokens=(),
    stop_sequences=(),
    pad_token: int = 0,
    fields: Mapping[str, Array] | None = None,
) -> Generation:
    """Continuations by whole forward passes, one for each token: `ft_jax.models.generate` without its cache.

    It is for what a method does to the forward pass by the example, such as an adapter chosen for each prompt
    (``Method.forward``). A token costs a pass over the whole sequence, so without such a method take `generate`, which
    gives the same tokens and log-probabilities from the same keys.

    Args:
      run: ``batch -> Outputs``, token logits, such as ``lambda batch: outputs_of(state, method, apply, batch)``. The
        batch has ``input_ids`` and ``attention_mask`` and, repeated for each continuation, `fields`.
      input_ids, attention_mask, max_new_tokens, key, temperature, top_k, top_p, min_p, samples: see `generate`.
      stop_tokens, stop_sequences, pad_token: see `generate`.
      fields: what else `run` reads of a prompt, each ``[batch, ...]``.

    Raises:
      ValueError: a number out of range, or sampling without a key.

    Example:
      >>> from ft_jax import models
      >>> model = models.tiny_decoder(jax.random.key(0))
      >>> run = lambda batch: model.apply(model.params, batch)
      >>> prompt = jnp.ones((1, 3), jnp.int32)
      >>> found = generate_through(run, prompt, max_new_tokens=4).tokens
      >>> bool((found == models.generate(model, model.params, prompt, max_new_tokens=4, stop_tokens=()).tokens).all())
      True
    """
    if max_new_tokens < 1 or samples < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens} and samples {samples}; both must be at least 1")
    ids = jnp.asarray(input_ids, jnp.int32)
    real = jnp.ones_like(ids) if attention_mask is None else jnp.asarray(attention_mask, jnp.int32)
    sampling, numbers = sampling_of(temperature, key=key, top_k=top_k, top_p=top_p, min_p=min_p)
    stops = stops_of(stop_tokens, stop_sequences, ids.shape[0]).repeated(samples)
    ids, real, more = jax.tree.map(
        lambda x: jnp.repeat(x, samples, axis=0), (*left_padded(ids, real), dict(fields or {}))
    )
    prompt = ids.shape[1]
    room = ((0, 0), (0, max_new_tokens))
    ids, known = jnp.pad(ids, room, constant_values=pad_token), jnp.pad(real > 0, room, constant_values=True)

    def after(ids, slot):
        """Logits after the token at `slot`, of which those that follow are none yet."""
        seen = known & (jnp.arange(ids.shape[1]) <= slot)
        outputs = run({**more, "input_ids": ids, "attention_mask": seen.astype(jnp.int32)})
        hidden = jax.lax.dynamic_index_in_dim(outputs.hidden, slot, 1, keepdims=False)
        return dataclasses.replace(outputs, hidden=hidden).logits

    def advance(token, index, ids):
        slot = prompt + index - 1
        ids = jax.lax.dynamic_update_slice_in_dim(ids, token, slot, axis=1)
        return after(ids, slot), ids

    first = jax.random.key(0) if sampling.greedy else key
    return continued(
        after(ids, prompt - 1), ids, advance, max_new_tokens, first, sampling, numbers, stops, jnp.int32(pad_token)
    )
