"""Digits whose pixels each task shuffles in its own way: what the rows of permuted MNIST share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import models
from ft_jax.core import Method, make_step, optimizer, supervised

from ..pictures import pictures

PIXELS = 784


@functools.cache
def digits(address: str) -> dict[str, dict[str, jax.Array]]:
    """``{split: {"images" [examples, 784], "labels"}}`` of MNIST at an address, see `ft_jax.data.mnist`."""
    found = {}
    for split in ("train", "test"):
        images, labels = pictures(address, split)
        found[split] = {"images": jnp.asarray(images.reshape(-1, PIXELS)), "labels": jnp.asarray(labels)}
    return found


def example(batch: int) -> dict[str, jax.Array]:
    """A batch's names, types and shapes, for methods that remember digits."""
    return {"images": jnp.zeros((batch, 28, 28, 1)), "labels": jnp.zeros(batch, jnp.int32)}


def accuracies(
    method: Method | None,
    address: str,
    seed: int,
    *,
    tasks: int,
    widths: Sequence[int],
    rate: float,
    optimiser: Callable,
    batch: int,
    passes: int = 1,
    examples: int | None = None,
    shown: int | None = None,
    strength: float | None = None,
    held_out: bool = False,
    **config: float,
) -> np.ndarray:
    """Trains through all tasks and gives the test accuracy on each after each, ``[tasks, tasks]``.

    Args:
      method: what keeps from forgetting; None for naive training.
      address: of the digits.
      seed: of the network, the orders of pixels (the first task's is as it was) and of examples.
      tasks: how many.
      widths: of the hidden layers.
      rate: the learning rate.
      optimiser: of optax, which takes ``learning_rate``.
      batch: examples a step.
      passes: through a task's examples.
      examples: of each task, drawn anew for each; None for all.
      shown: examples that the method sees at a task's end; None for all of the task's.
      strength: of the method's penalty; None for the method's own.
      held_out: asks every tenth training digit, which then is not learned from, and no test digit.
      **config: of `ft_jax.models.MLPConfig`, such as dropout.
    """
    parts, random = digits(address), np.random.default_rng(seed)
    if held_out:
        asked = np.arange(len(parts["train"]["labels"])) % 10 == 9
        parts = {
            split: {field: column[rows] for field, column in parts["train"].items()}
            for split, rows in (("train", ~asked), ("test", asked))
        }
    model = models.mlp(models.MLPConfig((28, 28, 1), tuple(widths), 10, **config), jax.random.key(seed))
    program = make_step(
        supervised(model.apply), optimizer(optimiser, learning_rate=rate), *([method] if method else [])
    )

    def drawn(part, pixels, rows):
        return {
            "images": part["images"][rows][..., pixels].reshape(*rows.shape, 28, 28, 1),
            "labels": part["labels"][rows],
        }

    @jax.jit
    def learn(state, part, pixels, rows):
        return jax.lax.scan(lambda one, at: (program.step(one, drawn(part, pixels, at))[0], None), state, rows)[0]

    @jax.jit
    def end(state, part, pixels, rows):
        return program.after_task(state, drawn(part, pixels, rows)) if program.after_task else state

    @jax.jit
    def right(state, part, pixels):
        batch = drawn(part, pixels, jnp.arange(len(part["labels"])))
        return jnp.mean(jnp.argmax(program.evaluate(state, batch).predictions, axis=-1) == batch["labels"])

    state, table = program.init(model.params, jax.random.key(seed)), np.zeros((tasks, tasks))
    if method is not None and strength is not None:
        state = state.with_hyper({f"{method.name}.weight": strength})
    orders: list[Any] = [np.arange(PIXELS), *(random.permutation(PIXELS) for _ in range(tasks - 1))]
    for task, order in enumerate(orders):
        count = len(parts["train"]["labels"])
        chosen = random.permutation(count)[:examples]
        whole = len(chosen) // batch * batch
        rows = np.concatenate([random.permutation(chosen)[:whole] for _ in range(passes)])
        state = learn(state, parts["train"], jnp.asarray(order), jnp.asarray(rows.reshape(-1, batch)))
        last = whole if shown is None else min(shown, whole) // batch * batch
        state = end(state, parts["train"], jnp.asarray(order), jnp.asarray(chosen[:last].reshape(-1, batch)))
        table[task] = [float(right(state, parts["test"], jnp.asarray(pixels))) for pixels in orders]
    return table
