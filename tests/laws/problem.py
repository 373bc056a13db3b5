"""The tiny problem of the laws, and one compiled program per method."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ft_jax
from ft_jax.core import Problem, make_step, merge, optimizer, parameters, supervised
from ft_jax.models import tiny_decoder

BATCH, TIME, VOCABULARY = 8, 6, 32
EMITTERS = "xla_cpu_use_fusion_emitters"
EXACT = {EMITTERS: True} if EMITTERS in os.environ["XLA_FLAGS"] else None
"""Compiles with XLA's own choice of generator, whose bits do not depend on what is donated; tests/conftest.py chose the
quicker one."""
NAMES = tuple(ft_jax.catalogue)


@functools.cache
def problem() -> Problem:
    """A two-layer decoder and a batch whose examples count different numbers of tokens."""
    model = tiny_decoder(jax.random.key(0), vocabulary=VOCABULARY)
    tokens = jax.random.randint(jax.random.key(1), (BATCH, TIME + 1), 0, VOCABULARY)
    lengths = 2 + jnp.arange(BATCH) % (TIME - 1)
    batch = {
        "input_ids": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "weights": (jnp.arange(TIME) < lengths[:, None]).astype(jnp.float32),
    }
    return Problem(model.apply, model.params, batch, jax.random.key(2))


def batch_of(*names: str):
    """The problem's batch as a composition (outermost first) asks for it."""
    batch = problem().batch
    for name in reversed(names):
        entry = ft_jax.catalogue[name]
        batch = batch if entry.batch is None else entry.batch(batch)
    return batch


@functools.cache
def example(name: str, *inside: str):
    """The catalogue's own small construction of a method, for the batch that the methods inside it ask for."""
    return ft_jax.catalogue[name].example(dataclasses.replace(problem(), batch=batch_of(*inside)))


def program_of(method, loss=None, **options):
    """A program with plain momentum, whose updates are continuous in the gradients."""
    loss = supervised(problem().apply) if loss is None else loss
    return make_step(loss, optimizer(optax.sgd, learning_rate=0.1, momentum=0.9), method, **options)


@functools.cache
def compiled(name: str):
    """``(program, jitted step)`` of a method alone, shared by the laws."""
    program = program_of(example(name))
    return program, jax.jit(program.step)


@functools.lru_cache(maxsize=4)
def initialise(program):
    """``program.init``, compiled once."""
    return jax.jit(program.init)


def start(program, key: int = 3):
    """A fresh state."""
    return initialise(program)(problem().params, jax.random.key(key))


def train(step, state, batch, steps: int = 3):
    """`steps` steps on one batch: the state and the list of metrics."""
    history = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history


def arrays(tree):
    """The leaves as numpy arrays, random keys as their bits."""
    leaves = jax.tree.leaves(tree)
    typed = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(leaf) if key else leaf) for key, leaf in zip(typed, leaves, strict=True)]


def same_bits(one, other) -> None:
    """Asserts that two trees are equal to the last bit."""
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def close(one, other, tolerance: float = 1e-5) -> None:
    """Asserts that two trees are equal to float tolerance."""
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def dense(state, method):
    """The model's dense parameters, adapters merged."""
    return merge(parameters(state, method)["model"])
