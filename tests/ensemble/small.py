"""A linear classifier with dropout, small enough to check by hand."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.core.weights import matmul

WIDTH, CLASSES, ROWS = 5, 3, 12


def apply(params, batch, key=None):
    hidden = matmul(params["up"]["kernel"], batch["x"])
    if key is not None:
        hidden = hidden * jax.random.bernoulli(key, 0.7, hidden.shape) / 0.7
    return Outputs(hidden=hidden, unembedding=params["head"]["kernel"])


def params():
    one, other = jax.random.split(jax.random.key(0))
    return {
        "up": {"kernel": 0.5 * jax.random.normal(one, (WIDTH, WIDTH))},
        "head": {"kernel": 0.5 * jax.random.normal(other, (WIDTH, CLASSES))},
    }


def batch(seed=1, rows=ROWS):
    x, labels = jax.random.split(jax.random.key(seed))
    return {
        "x": jax.random.normal(x, (rows, WIDTH)),
        "labels": jax.random.randint(labels, (rows,), 0, CLASSES),
    }


def program(*methods, rate=0.3):
    return make_step(supervised(apply), optax.sgd(rate), compose(*methods))


def trajectory(made, steps, key=3):
    """The states after 1 … steps updates."""
    state, step = made.init(params(), jax.random.key(key)), jax.jit(made.step)
    states = []
    for index in range(steps):
        state, _ = step(state, batch(index))
        states.append(state)
    return states


def flat(tree):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])
