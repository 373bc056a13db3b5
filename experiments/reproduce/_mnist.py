"""Networks that learn MNIST by Adam, and the large one that small ones learn from: what the rows of MNIST share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ft_jax import distillation, models
from ft_jax.core import Method, Program, TrainState, compose, make_step, map_members, optimizer, supervised
from ft_jax.data.augment_images import shift
from ft_jax.data.augmentation import Augmentation, augmented
from ft_jax.ensemble import members, own_start

from ._permuted import digits

LARGE, SMALL = (800, 800), (300, 300)
"""Hidden layers of the teacher and of its students; from 300 units on, the paper finds, temperatures matter little."""

TEMPERATURE, HARD = 20.0, 0.1
"""The paper's temperature, and the weight of the true labels, which it wants considerably lower than the other."""

EPOCHS, QUICK = {"teacher": 30, "student": 20}, {"teacher": 4, "student": 4}
"""Passes through the digits, of a whole run and of a quick one."""

BATCH = 100


def several(count: int) -> Method:
    """So many networks in one program, each with a start of its own."""
    return compose(members(count, fusion=None), own_start())


def order(labels: Array, epochs: int, seed: int, without: Sequence[int] = ()) -> np.ndarray:
    """The examples of each step ``[steps, BATCH]``: so many passes, each in an order of its own.

    Args:
      labels: of all examples.
      epochs: passes.
      seed: of the orders.
      without: classes that are left out.
    """
    random = np.random.default_rng(seed)
    chosen = np.flatnonzero(~np.isin(np.asarray(labels), without))
    whole = len(chosen) // BATCH * BATCH
    return np.concatenate([random.permutation(chosen)[:whole] for _ in range(epochs)]).reshape(-1, BATCH)


def learned(
    method: Method,
    widths: Sequence[int],
    part: dict[str, jax.Array],
    steps: np.ndarray,
    seed: int,
    augmentation: Augmentation | None = None,
    *,
    constant: bool = False,
    **config: float,
) -> tuple[Program, TrainState]:
    """Perceptrons trained by Adam, its rate from 0.001 down to 0 by a cosine.

    Args:
      method: what is composed with the task's loss; `several` makes many networks of one.
      widths: of the hidden layers.
      part: a split of `digits`.
      steps: the examples of each step, see `order`; ``[steps, networks, BATCH]`` makes networks that each have an order
        of their own.
      seed: of the starts and of what is random in a step.
      augmentation: of the images.
      constant: whether the rate stays what it is.
      **config: of `ft_jax.models.MLPConfig`, such as dropout.
    """
    model = models.mlp(models.MLPConfig((28, 28, 1), tuple(widths), 10, **config), jax.random.key(seed))
    decay = None if constant else optax.cosine_decay_schedule(1.0, len(steps))
    tuned = optimizer(optax.adam, schedule=decay, learning_rate=1e-3)
    program = make_step(supervised(model.apply), tuned, compose(method))
    if steps.ndim == 3:
        program = map_members(program, steps.shape[1], own_batches=True)

    @jax.jit
    def learn(state, part, steps, keys):
        def one(state, given):
            at, key = given
            return program.step(state, augmented(augmentation, key, batch(part, at)))[0], None

        return jax.lax.scan(one, state, (steps, keys))[0]

    keys = jax.random.split(jax.random.key(seed + 1), len(steps))
    return program, learn(program.init(model.params, jax.random.key(seed)), part, jnp.asarray(steps), keys)


def batch(part: dict[str, jax.Array], at: Any) -> dict[str, jax.Array]:
    """Some examples of a split as a network reads them, or those of several networks."""
    images = part["images"][at]
    return {"images": images.reshape(*images.shape[:-1], 28, 28, 1), "labels": part["labels"][at]}


def logits(
    learned: tuple[Program, TrainState], part: dict[str, jax.Array]
) -> Float[np.ndarray, "networks examples 10"]:
    """What every network says of a whole split."""
    program, state = learned
    found = jax.jit(lambda state, part: program.evaluate(state, batch(part, slice(None))).predictions)(state, part)
    return np.asarray(found).reshape(-1, len(part["labels"]), 10)


def wrong(logits: Float[np.ndarray, "networks examples 10"], labels: Array) -> np.ndarray:
    """Of every network the percentage of examples that it gets wrong."""
    return 100 * np.mean(logits.argmax(axis=-1) != np.asarray(labels), axis=-1)


@functools.cache
def teacher(address: str, epochs: int) -> tuple[Callable, Any, Float[np.ndarray, "1 examples 10"]]:
    """``(apply, parameters, logits on the test set)`` of the large net: dropout, images moved by up to 2 pixels."""
    parts = digits(address)
    steps = order(parts["train"]["labels"], epochs, 0)
    program, state = learned(compose(), LARGE, parts["train"], steps, 0, shift(2), input_dropout=0.2, dropout=0.5)
    apply = models.mlp(models.MLPConfig((28, 28, 1), LARGE, 10), None).apply
    return apply, program.parameters(state)["model"], logits((program, state), parts["test"])


def softened(address: str, epochs: int) -> Method:
    """The loss by the teacher's soft targets, and a little by the labels."""
    apply, params, _ = teacher(address, epochs)
    return distillation.logits(apply, params, temperature=TEMPERATURE, hard_weight=HARD)
