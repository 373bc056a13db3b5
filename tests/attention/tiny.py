"""A tiny decoder, an encoder and their batches, shared by the attention tests."""

import functools

import jax
import jax.numpy as jnp
import optax

from ft_jax.core import jit_step, make_step, parameters, supervised
from ft_jax.models import tiny_decoder, tiny_encoder

DECODER = tiny_decoder(jax.random.key(0))
ENCODER = tiny_encoder(jax.random.key(0))
TOKENS = jax.random.randint(jax.random.key(1), (4, 9), 0, 32)
MASK = (jnp.arange(8) < jnp.array([8, 8, 6, 3])[:, None]).astype(jnp.int32)
BATCH = {
    "input_ids": TOKENS[:, :-1],
    "labels": TOKENS[:, 1:],
    "weights": MASK.astype(jnp.float32),
    "attention_mask": MASK,
}


def program_of(method, model=DECODER, rate=0.1):
    """A program with plain gradient descent."""
    return make_step(supervised(model.apply), optax.sgd(rate), method)


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply, params, batch):
    return apply(params, batch).logits


def logits(model, params=None, batch=BATCH):
    """The outputs of a model, with other parameters where given."""
    return _logits(model.apply, model.params if params is None else params, batch)


def started(method, model=DECODER):
    """``(state, model parameters as the model sees them)`` at the start."""
    state = jax.jit(program_of(method, model).init)(model.params, jax.random.key(2))
    return state, parameters(state, method)["model"]


def trained(method, model=DECODER, steps=3, batch=BATCH, rate=0.1):
    """``(state, metrics of every step)``."""
    program = program_of(method, model, rate)
    state, step, history = jax.jit(program.init)(model.params, jax.random.key(2)), jit_step(program.step), []
    for _ in range(steps):
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history
