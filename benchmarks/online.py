"""One learned example at a time: seconds of an answer and of a step, by their median and 99th percentile."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from ft_jax.core import compose, jit_step, make_step, optimizer, supervised
from ft_jax.incremental import replay
from ft_jax.transfer import lora

from .case import Options
from .timing import peak_bytes, seconds

REPEATS, REPLAYED, CAPACITY = 200, 4, 500


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """MiniLM with LoRA and a replay buffer: one example is answered, then learned from with some of the buffer."""
    name, shape = Options(size=options.size, batch=1, time=options.time or 64, dtype="float32").shape("minilm")
    model, example = shape.model(jax.random.key(0)), shape.examples()
    method = compose(replay(CAPACITY, REPLAYED, example), lora(rank=options.rank, also=("*/head/*",)))
    tuned = optimizer(optax.adamw, learning_rate=1e-4, weight_decay=0.0)
    program = make_step(supervised(model.apply), tuned, method)
    step, answer = jit_step(program.step), jax.jit(lambda state, batch: program.evaluate(state, batch).predictions)
    state = program.init(model.params, jax.random.key(0))

    def learn():
        nonlocal state
        state, metrics = step(state, example)
        return metrics["loss"]

    repeats = max(options.repeats, REPEATS)
    learned, answered = seconds(learn, repeats, 2), seconds(lambda: answer(state, example), repeats, 2)
    yield {
        "size": name,
        "method": f"lora + replay of {REPLAYED}",
        "batch": [1, shape.time],
        "examples": repeats,
        "learned_milliseconds": _percentiles(learned),
        "answered_milliseconds": _percentiles(answered),
        "peak_bytes": peak_bytes(),
    }


def _percentiles(taken) -> dict[str, float]:
    middle, slow = 1000 * np.percentile(taken, [50, 99])
    return {"median": round(float(middle), 2), "99th": round(float(slow), 2)}
