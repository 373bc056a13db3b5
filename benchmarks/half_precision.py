"""What half precision does to full fine-tuning at a small rate, and what its remedies cost.

At a learning rate of 1e-5 most updates are smaller than half a bfloat16 step of a parameter and are rounded away. Four
runs from one start on the same batches: float32; bfloat16; bfloat16 with float32 master copies; bfloat16 rounded by
chance.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.weights import cast

from .case import Options
from .rounding import SHAPE, batches, pretrained

RUNS = {
    "float32": ("float32", ()),
    "bfloat16": ("bfloat16", ()),
    "master_copies": ("bfloat16", (transfer.master_copies,)),
    "stochastic_rounding": ("bfloat16", (transfer.stochastic_rounding,)),
}
RATE, STEPS = 1e-5, 300


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a run (of ``--methods``, or all): held-out losses, bytes a parameter that learns, seconds a step."""
    random = np.random.default_rng(0)
    first, second = (random.integers(0, SHAPE.config.vocabulary, (SHAPE.config.vocabulary, 4)) for _ in range(2))
    start, changed = pretrained(first), np.where(np.arange(4) == 0, second, first)
    unknown = [name for name in options.methods if name not in RUNS]
    if unknown:
        raise ValueError(f"half_precision has no run {unknown[0]!r}; it has {', '.join(RUNS)}")
    for name, (dtype, methods) in RUNS.items():
        if options.methods and name not in options.methods:
            continue
        yield {"run": name, "learning_rate": RATE, "steps": STEPS, **trained(start, changed, dtype, methods)}


def trained(start, successors, dtype: str, methods, steps: int = STEPS) -> dict[str, float]:
    """One run's losses and costs."""
    model = SHAPE.model(None)
    method = compose(*(build() for build in methods), transfer.full())
    program = make_step(supervised(model.apply), optimizer(optax.adamw, learning_rate=RATE), method)
    state, step = program.init(cast(start, dtype), jax.random.key(2)), jit_step(program.step)
    learned = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    held_out, source = batches(3, SHAPE, successors), batches(4, SHAPE, successors)
    test = [next(held_out) for _ in range(4)]
    evaluate = jax.jit(lambda state, batch: program.evaluate(state, batch)[0]["task"])

    def loss():
        return float(np.mean([float(evaluate(state, batch)) for batch in test]))

    before, seconds = loss(), []
    for _ in range(steps):
        batch, begun = next(source), time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begun)
    return {
        "before": before,
        "final": loss(),
        "bytes_a_parameter": held / learned,
        "step_seconds": float(np.median(seconds)),
    }
