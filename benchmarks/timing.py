"""Medians of repeated runs, and the line every benchmark prints."""

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import jax
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
