"""How memory and operations of a LoRA step grow: with sequence length, rank, members, batch and model size.

Nothing is run: the memory is that of the compiled program (`jax.stages.Compiled.memory_analysis`), so a shape that this
machine could not hold is measured all the same. Without a fused attention kernel, as on a CPU, scores over the whole
square are part of the temporaries.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.case import Options
from benchmarks.cost import step_cost, weights
from benchmarks.programs import build
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import memory

AXES = {
    "time": (512, 2048, 8192, 32_768),
    "batch": (1, 4, 16, 64),
    "rank": (4, 16, 64, 128),
    "members": (1, 4, 16),
}
"""What is varied, from the shape ``small``."""

MODELS = ("smollm2-135m", "llama-1b", "llama-3b", "llama-8b")
"""Model sizes, at batch 1 by 2,048 tokens in bfloat16, layers in a scan and rematerialised."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a point; ``--methods time batch`` measures those axes alone, by default all and ``model``."""
    chosen = options.methods or (*AXES, "model")
    _, small = Options(size=options.size or "small", remat=options.remat).shape("small")
    small = _roomy(small)
    for axis in chosen:
        if axis == "model":
            yield from models(options)
            continue
        for value in AXES[axis]:
            shape = dataclasses.replace(small, **{axis: value}) if axis in ("time", "batch") else small
            changes = {axis: value} if axis in ("rank", "members") else {}
            yield point(axis, value, shape, options.size or "small", **changes)


def models(options: Options) -> Iterator[dict[str, Any]]:
    """The points over model sizes."""
    for name in MODELS:
        shape = dataclasses.replace(SHAPES[name], batch=1, time=2048, dtype="bfloat16")
        shape = dataclasses.replace(shape, config=dataclasses.replace(shape.config, remat="full", scan=True))
        yield point("model", weights(SHAPES[name]), shape, name)


def point(axis: str, value: int, shape: Shape, size: str, **changes) -> dict[str, Any]:
    """One point: what the compiled step holds, and what it computes by the cost model and by XLA's count."""
    step = build("lora", shape, abstract=True, **changes)
    lowered = step.lowered()
    members = changes.get("members", 1)
    flops = step_cost(dataclasses.replace(shape, config=dataclasses.replace(shape.config, **_plain(shape))), "lora",
                      rank=changes.get("rank", 16), forward="auto").flops * members  # fmt: skip
    counted = None if getattr(shape.config, "scan", False) else lowered.cost_analysis()["flops"]
    return {
        "axis": axis,
        "value": value,
        "size": size,
        "batch": [shape.batch, shape.time],
        "dtype": shape.dtype,
        "remat": shape.config.remat,
        "flops": flops,
        "xla_flops": counted,
        **memory(lowered.compile()),
        "compiled_for": jax.default_backend(),
    }


def _plain(shape: Shape) -> dict[str, Any]:
    """The cost model reads unstacked layers."""
    return {"scan": False} if getattr(shape.config, "scan", False) else {}


def _roomy(shape: Shape) -> Shape:
    return dataclasses.replace(shape, config=dataclasses.replace(shape.config, positions=max(AXES["time"])))
