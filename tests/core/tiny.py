"""A one-layer token model and a ragged batch, small enough to check by hand."""

import jax
import jax.numpy as jnp

from ft_jax.core import Outputs, matmul

BATCH, TIME, WIDTH, CLASSES = 8, 12, 16, 37


def apply(params, batch, key):
    """Embedding, one tanh layer, head."""
    hidden = jnp.take(params["table"], batch["input_ids"], axis=0)
    hidden = jnp.tanh(matmul(params["layer"]["kernel"], hidden, params["layer"]["bias"]))
    return Outputs(hidden=hidden, unembedding=params["head"]["kernel"])


def params():
    """Random parameters."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "table": jax.random.normal(keys[0], (CLASSES, WIDTH)),
        "layer": {"kernel": jax.random.normal(keys[1], (WIDTH, WIDTH)) / 4, "bias": jnp.full(WIDTH, 0.1)},
        "head": {"kernel": jax.random.normal(keys[2], (WIDTH, CLASSES)) / 4},
    }


def batch():
    """Examples that count 3 to 10 tokens."""
    keys = jax.random.split(jax.random.key(1), 2)
    counted = jnp.arange(TIME)[None] < jnp.arange(3, 11)[:, None]
    return {
        "input_ids": jax.random.randint(keys[0], (BATCH, TIME), 0, CLASSES),
        "labels": jax.random.randint(keys[1], (BATCH, TIME), 0, CLASSES),
        "weights": counted.astype(jnp.float32),
    }
