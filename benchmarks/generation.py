"""Greedy generation: tokens a second, the peer's ``generate`` on the same weights and prompts beside it."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ft_jax.models import generate

from . import peer
from .case import Options
from .programs import build
from .timing import peak_bytes, seconds, spread


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row; 64 prompts of 128 tokens with 128 new ones on a GPU, 4 of 32 with 32 on a CPU."""
    accelerated = jax.default_backend() != "cpu"
    name, _ = options.shape("llama-1b" if accelerated else "smollm2-135m")
    batch, prompt = options.batch or (64 if accelerated else 4), options.time or (128 if accelerated else 32)
    new = prompt
    _, shape = Options(size=name, batch=batch, time=prompt, dtype=options.dtype).shape(name)
    step = build("full", shape)
    ids = jax.device_put(step.batch["input_ids"])

    def run():
        return generate(step.model, step.model.params, ids, max_new_tokens=new, stop_tokens=()).tokens

    compile_seconds = float(seconds(run, 1, 0)[0])
    taken = seconds(run, options.repeats)
    row = {
        "size": name,
        "method": "generate",
        "batch": [batch, prompt],
        "new": new,
        "dtype": shape.dtype,
        "first_seconds": compile_seconds,
        "seconds": spread(taken),
        "tokens_per_second": batch * new / float(np.median(taken)),
        "peak_bytes": peak_bytes(),
    }
    if not options.peer:
        yield row
        return
    other = peer.start(step, "generate", "eager", options.peer_python, new=new)
    try:
        ours = np.asarray(run())[:4]
        same = float(np.mean(ours == np.asarray(other.facts["tokens"])))
        pairs = [(seconds(run, 1, 0)[0], other.steps(1)["seconds"][0]) for _ in range(options.repeats)]
    finally:
        other.close()
    ours, theirs = np.asarray(pairs).T
    yield {
        **row,
        "peer": "eager",
        "equal_tokens": same,
        "peer_seconds": spread(theirs),
        "ratio": float(np.median(theirs / ours)),
    }
