"""What rounding the merged weight to bfloat16 does to a LoRA's loss curve, at small learning rates.

A merged forward pass multiplies by ``round(W + s·A·B)``, so an update smaller than half a bfloat16 step of a weight
(1/256 of its size) is not seen until it has grown, while the gradient acts as if it were. Three runs from the same
start on the same batches: float32, bfloat16 in two passes, bfloat16 merged.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import transfer
from ft_jax.core import jit_step, make_step, optimizer, supervised
from ft_jax.core.weights import cast
from ft_jax.models import DecoderConfig

from .case import Options
from .shapes import Shape

SHAPE = Shape(
    DecoderConfig(vocabulary=256, width=128, layers=2, heads=4, key_value_heads=2, head_width=32, mlp_width=256),
    batch=8, time=32, dtype="float32",
)  # fmt: skip

RUNS = (
    ("float32", "two_pass"), ("bfloat16", "two_pass"), ("bfloat16", "merged_backward"), ("bfloat16", "merged"),
)  # fmt: skip

RATES = (1e-5, 3e-5, 1e-4)

STEPS, EVERY, WARM = 400, 20, 300
"""Updates of a run, how often its loss is noted, and the updates of all weights that make the pretrained start."""


def batches(seed: int, shape: Shape, successors: np.ndarray):
    """Endless batches of a language in which every token has four successors."""
    random = np.random.default_rng(seed)
    while True:
        ids = np.empty((shape.batch, shape.time + 1), np.int32)
        ids[:, 0] = random.integers(0, shape.config.vocabulary, shape.batch)
        for place in range(shape.time):
            ids[:, place + 1] = successors[ids[:, place], random.integers(0, 4, shape.batch)]
        yield {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a run: its loss every `EVERY` steps, on held-out batches; RATES of the learning rate by default."""
    random = np.random.default_rng(0)
    first, second = (random.integers(0, SHAPE.config.vocabulary, (SHAPE.config.vocabulary, 4)) for _ in range(2))
    start = pretrained(first)
    # The new language keeps three of four successors, so there is something to adapt and not all to learn.
    changed = np.where(np.arange(4) == 0, second, first)
    for rate in RATES:
        for dtype, forward in RUNS:
            losses = adapted(start, changed, dtype, forward, rate, options.rank)
            yield {
                "dtype": dtype,
                "forward": forward,
                "learning_rate": rate,
                "rank": options.rank,
                "every": EVERY,
                "losses": losses,
                "final": losses[-1],
            }


def pretrained(successors: np.ndarray):
    """Weights that know a language."""
    model = SHAPE.model(jax.random.key(0))
    program = make_step(supervised(model.apply), optimizer(optax.adamw, learning_rate=3e-3), transfer.full())
    state, step = program.init(model.params, jax.random.key(1)), jit_step(program.step)
    source = batches(1, SHAPE, successors)
    for _ in range(WARM):
        state, _ = step(state, next(source))
    return state.params["model"]


def adapted(start, successors, dtype: str, forward: str, rate: float, rank: int) -> list[float]:
    """The held-out losses of one run."""
    shape = dataclasses.replace(SHAPE, dtype=dtype)
    model = shape.model(None)
    tuned = optimizer(optax.adamw, learning_rate=rate)
    method = transfer.lora(rank=rank, alpha=2.0 * rank, forward=forward)
    program = make_step(supervised(model.apply), tuned, method)
    state, step = program.init(cast(start, dtype), jax.random.key(2)), jit_step(program.step)
    held_out, source = batches(3, shape, successors), batches(4, shape, successors)
    test = [next(held_out) for _ in range(4)]
    evaluate = jax.jit(lambda state, batch: program.evaluate(state, batch)[0]["task"])
    losses = []
    for index in range(STEPS + 1):
        if index % EVERY == 0:
            losses.append(float(np.mean([float(evaluate(state, batch)) for batch in test])))
        state, _ = step(state, next(source))
    return losses
