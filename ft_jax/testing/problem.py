"""The tiny problem that every law runs on."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core import Problem, catalogue, make_step, optimizer, supervised
from ft_jax.core.state import Batch
from ft_jax.models import Model, tiny_decoder

BATCH, TIME, VOCABULARY = 8, 6, 32
HALVES = 2
"""A law's batch is a method's batch of each half of the examples, one after the other: two episodes become four, so
that devices and micro-batches divide whatever the layout counts."""


@functools.cache
def problem(layers: int = 1) -> Problem:
    """A decoder of `layers` layers and a batch whose examples count different numbers of tokens.

    Example:
      >>> {name: value.shape for name, value in problem().batch.items()}
      {'input_ids': (8, 6), 'labels': (8, 6), 'weights': (8, 6), 'attention_mask': (8, 6)}
    """
    network = model(layers)
    return Problem(network.apply, network.params, examples(0), jax.random.key(2), examples(0))


@functools.cache
def model(layers: int = 1) -> Model:
    """The problem's decoder."""
    return tiny_decoder(jax.random.key(0), vocabulary=VOCABULARY, layers=layers)


@functools.cache
def examples(half: int) -> Batch:
    """Eight plain examples; the problem's own are half 0."""
    tokens = jax.random.randint(jax.random.fold_in(jax.random.key(1), half), (BATCH, TIME + 1), 0, VOCABULARY)
    lengths = 2 + jnp.arange(BATCH) % (TIME - 1)
    real = jnp.arange(TIME) < lengths[:, None]
    return {
        "input_ids": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "weights": real.astype(jnp.float32),
        "attention_mask": real.astype(jnp.int32),
    }


def layout_of(*names: str) -> Any:
    """``batch -> batch`` as a composition of the catalogue's examples, outermost first, asks for it."""

    def layout(batch):
        for name in reversed(names):
            entry = catalogue[name]
            batch = batch if entry.batch is None else entry.batch(batch)
        return batch

    return layout


def joined(batches) -> Batch:
    """Batches of one outline as one, examples after examples."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *batches)


@functools.cache
def example(name: str, *inside: str, whole: tuple[str, ...] = (), layers: int = 1) -> Any:
    """The catalogue's own small construction of a method, for the batch that the methods inside it ask for.

    `whole` are all that ask for a batch of their own, where there are any.
    """
    given = problem(layers)
    inner = layout_of(*inside)(given.batch)
    try:
        outer = layout_of(*whole)(given.batch)
    except (KeyError, TypeError, ValueError):  # No batch is for all of them, which composing refuses.
        outer = inner
    return catalogue[name].example(dataclasses.replace(given, batch=inner, whole=outer))


def program_of(method: Any, layers: int = 1, loss: Any = None, **options) -> Any:
    """A program with plain momentum, whose updates are continuous in the gradients; options as in `make_step`."""
    loss = supervised(problem(layers).apply) if loss is None else loss
    return make_step(loss, optimizer(optax.sgd, learning_rate=0.1, momentum=0.9), method, **options)


def rematerialised(layers: int = 1) -> Any:
    """The plain loss, computed again for the backward pass."""
    plain = supervised(problem(layers).apply)

    def loss(params, batch, context):
        return jax.checkpoint(lambda params: plain(params, batch, context))(params)

    return loss
