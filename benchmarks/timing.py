"""Medians of repeated runs, what the device can do, and the line every benchmark prints."""

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def seconds(run: Callable[[], object], repeats: int, warmup: int = 1) -> np.ndarray:
    """Wall seconds of each of `repeats` calls, after `warmup` uncounted ones; waits for their results."""
    taken = []
    for index in range(warmup + repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        if index >= warmup:
            taken.append(time.perf_counter() - begin)
    return np.asarray(taken)


def line(case: str, **values) -> str:
    """One JSON line with the machine and the versions beside the values."""
    device = jax.devices()[0]
    machine = {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("jax", "flax", "optax")},
    }
    return json.dumps({"case": case, **values, **machine})


def child(program: str, told: Any, **environment: str) -> Any:
    """What a program prints last, as JSON, run by a process of its own that is told `told` as its argument.

    The program's relative imports are this package's, whose name is another one where it is installed.

    Raises:
      RuntimeError: where it fails, with its last words.
    """
    environment = {
        **os.environ,
        **environment,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1 + __package__.count(".")]), os.environ.get("PYTHONPATH", "")]
        ),
    }
    words = [sys.executable, "-c", f"__package__ = {__package__!r}\n{program}", json.dumps(told)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"a process of the benchmark failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


class Runner:
    """A compiled step with its state: `advance` takes some steps and gives the seconds of one.

    ``cpu_seconds`` are those that this process's threads were busy in a step, which other load on the machine
    lengthens less than the wall's.
    """

    def __init__(self, step: Callable, state: Any, batch: Any):
        self.step, self.state, self.batch = step, state, batch
        self.loss: Any = None
        self.cpu_seconds: list[float] = []

    def advance(self, count: int = 1) -> float:
        """Mean seconds of `count` steps queued one after another, as in training, until the last is done."""
        begin, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            self.state, metrics = self.step(self.state, self.batch)
        self.loss = jax.block_until_ready(metrics["loss"])
        jax.block_until_ready(self.state.params)
        self.cpu_seconds.append((time.process_time() - busy) / count)
        return (time.perf_counter() - begin) / count


def spread(taken) -> dict[str, float]:
    """Median, least and most of some seconds."""
    taken = np.asarray(taken)
    return {"median": float(np.median(taken)), "min": float(taken.min()), "max": float(taken.max())}


@functools.cache
def matrix_rate(dtype: str) -> float:
    """Operations a second of a large matrix product on this device, the best of several."""
    size = 8192 if jax.default_backend() != "cpu" else 1024
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return 2.0 * size**3 / float(seconds(lambda: product(a, a), 8, 2).min())


@functools.cache
def bandwidth() -> float:
    """Bytes a second of reading and writing a large array on this device, the best of several."""
    x = jnp.ones(2**28 if jax.default_backend() != "cpu" else 2**25, jnp.float32)
    scale = jax.jit(lambda x: x * 1.5)
    return 2.0 * x.nbytes / float(seconds(lambda: scale(x), 8, 2).min())


def peak_bytes() -> int | None:
    """The most memory the device has held in this process, where it says so."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory(compiled) -> dict[str, int]:
    """Bytes of a compiled program: of its arguments, outputs not given from them, and temporaries."""
    found = compiled.memory_analysis()
    return {
        "argument_bytes": found.argument_size_in_bytes,
        "output_bytes": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporary_bytes": found.temp_size_in_bytes,
    }
