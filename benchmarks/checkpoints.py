"""What a checkpoint costs: what a step waits for, the writing, its digests, and reading it back checked."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core import make_step
from ft_jax.training.checkpoint import Checkpoints
from ft_jax.training.saved_folders import RECORD
from ft_jax.training.seal import digests

from .case import Options

GIB, LEAVES, WIDTH = 1 << 30, 24, 512
"""A state of so many bytes in so many arrays; the width of the square product that stands for a step beside it."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A state with Adam's moments, saved and restored some times; other work's step alone, and while it is written."""
    state = _state(GIB if options.size != "tiny" else GIB >> 10)
    step, x = jax.jit(lambda x: jnp.tanh(x @ x)), jnp.full((WIDTH, WIDTH), 1e-3)
    waited, written, digested, restored, alone, beside = [], [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as name:
        checkpoints = Checkpoints(Path(name), ("none",), state)
        for number in range(1 + min(options.repeats, 5)):
            state = state.replace(step=state.step + 1)
            alone += _steps(step, x, 0.5)
            begin = time.perf_counter()
            checkpoints.save(state, {"place": number})
            returned = time.perf_counter()
            folder = Path(name) / "last" / str(number + 1)
            beside += _steps(step, x, 60.0, lambda: not folder.exists())  # noqa: B023
            checkpoints.wait()
            ended = time.perf_counter()
            told = time.perf_counter()
            digests(folder, RECORD)
            checked = time.perf_counter()
            checkpoints.restore()
            if number:  # the first one compiles and makes folders
                waited.append(returned - begin)
                written.append(ended - begin)
                digested.append(checked - told)
                restored.append(time.perf_counter() - checked)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        checkpoints.close()
    yield {
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.replace(key=None))),
        "file_bytes": size,
        "repeats": len(waited),
        "step_waits_seconds": _median(waited),
        "in_place_after_seconds": _median(written),
        "digest_seconds": _median(digested),
        "restore_seconds": _median(restored),
        "other_step_milliseconds": {"alone": _median(alone, 1e3), "while_writing": _median(beside, 1e3)},
    }


def _state(bytes_: int) -> Any:
    count = bytes_ // (3 * 4 * LEAVES)  # parameters and two moments, float32
    keys = jax.random.split(jax.random.key(0), LEAVES)
    params = {f"layer{index:02}": {"kernel": jax.random.normal(key, (count,))} for index, key in enumerate(keys)}
    state = make_step(None, optax.adam(1e-3)).init(params, jax.random.key(1))
    # Moments that are zero would be packed away.
    noise = lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape, leaf.dtype)  # noqa: E731
    return state.replace(opt_state=jax.tree.map(lambda x: noise(x) if x.size == count else x, state.opt_state))


def _steps(step, x, most: float, going=lambda: True) -> list[float]:
    """Seconds of each step for so long, or while something goes on."""
    taken, until = [], time.perf_counter() + most
    while time.perf_counter() < until and going():
        begin = time.perf_counter()
        step(x).block_until_ready()
        taken.append(time.perf_counter() - begin)
    return taken


def _median(values, scale: float = 1.0) -> float:
    return round(scale * statistics.median(values), 4) if values else 0.0
