"""Seconds to compile a step: cold, and in a new process from the persistent cache."""

import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from .case import Options
from .timing import child

CHILD = """
import json, sys, time
begin = time.perf_counter()
from .programs import build
from .shapes import shape
from ft_jax.training.process import use_compilation_cache
use_compilation_cache()
name, method, changes = json.loads(sys.argv[1])
step = build(method, shape(name, **changes), abstract=True)
built = time.perf_counter()
lowered = step.lowered()
traced = time.perf_counter()
lowered.compile()
print(json.dumps([built - begin, traced - built, time.perf_counter() - traced]))
"""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a method: seconds to trace and to compile, without and with what an earlier process left in the cache."""
    name, shape = options.shape("minilm" if jax.default_backend() == "cpu" else "llama-1b")
    changes = {"batch": shape.batch, "time": shape.time, "dtype": shape.dtype, "remat": options.remat}
    for method in options.methods or ("lora",):
        with tempfile.TemporaryDirectory() as folder:
            kept = {"JAX_COMPILATION_CACHE_DIR": folder, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            cold, cached = (child(CHILD, [name, method, changes], **kept) for _ in range(2))
        yield {
            "size": name,
            "method": method,
            "batch": [shape.batch, shape.time],
            "trace_seconds": cold[1],
            "cold_seconds": cold[2],
            "cached_seconds": cached[2],
            "cached_with_trace_seconds": cached[1] + cached[2],
        }
