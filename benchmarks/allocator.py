"""What keeping a step's memory gives on a CPU: seconds, pages touched for the first time, the process's peak."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import Options
from .timing import child, spread

CHILD = """
import json, resource, sys
from ft_jax.training.process import set_up_process
set_up_process()
from .programs import build
from .shapes import shape
from .timing import Runner

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

name, method, changes, repeats = json.loads(sys.argv[1])
runner = Runner(*build(method, shape(name, **changes)).start())
for _ in range(4):
    runner.advance()
before = faults()
seconds = [runner.advance() for _ in range(repeats)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([seconds, (faults() - before) / repeats, peak]))
"""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a method: a process that keeps its memory beside one with ``FT_JAX_KEEP_MEMORY=0``."""
    name, shape = options.shape("smollm2-135m")
    changes = {"batch": shape.batch, "time": shape.time, "dtype": shape.dtype, "remat": options.remat}
    for method in options.methods or ("lora",):
        told = [name, method, changes, options.repeats]
        (kept, kept_faults, kept_peak), (left, left_faults, left_peak) = (
            child(CHILD, told, FT_JAX_KEEP_MEMORY=keep, JAX_PLATFORMS="cpu") for keep in ("1", "0")
        )
        yield {
            "size": name,
            "method": method,
            "batch": [shape.batch, shape.time],
            "kept_seconds": spread(kept),
            "seconds": spread(left),
            "ratio": float(np.median(left) / np.median(kept)),
            "kept_page_faults": kept_faults,
            "page_faults": left_faults,
            "kept_peak_bytes": kept_peak,
            "peak_bytes": left_peak,
        }
