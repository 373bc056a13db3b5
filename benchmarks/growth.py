"""How a LoRA step grows: with sequence length, rank, members, batch, model size, depth, and chunks of logits.

Nothing is run: the memory is that of the compiled program (`jax.stages.Compiled.memory_analysis`), so a shape that this
machine could not hold is measured all the same. Compiled for an H100 where its compiler is installed (see
`benchmarks.aot`), with what its kernels compute and move; else for the device that is here. Without a fused attention
kernel, as on a CPU, scores over the whole square are part of the temporaries.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from .aot import ALONE, devices, program
from .case import Options
from .cost import step_cost, weights
from .programs import build
from .shapes import SHAPES, Shape
from .shapes import shape as named_shape
from .timing import memory

AXES = {
    "time": (512, 2048, 8192, 32_768),
    "batch": (1, 4, 16, 64),
    "rank": (4, 16, 64, 128),
    "members": (1, 4, 16),
}
"""What is varied, from the shape ``small`` on a CPU and from one sequence of ``llama-1b`` elsewhere."""

MODELS = ("smollm2-135m", "llama-1b", "llama-3b", "llama-8b")
"""Model sizes, at batch 1 by 2,048 tokens in bfloat16, layers in a scan and rematerialised."""

DEPTHS = (8, 16, 32, 64)
"""Numbers of layers of the shape ``llama-1b``, rematerialised, each unrolled and in a scan."""

CHUNKS = (8, 16, 32, 64, 128, 256, 512)
"""Time steps a chunk of the logits of ``llama-1b``, 8 examples of 2,048 tokens."""

BATCHES = (1, 2, 4, 8, 16)
"""Examples of 2,048 tokens that four layers of the shape ``llama-1b`` are given with each of LoRA's forwards."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a point; ``--methods time batch`` measures those axes alone, by default all and `SPECIAL`."""
    mesh = h100()
    large = mesh is not None or jax.default_backend() != "cpu"
    name, found = Options(size=options.size, remat=options.remat).shape("llama-1b" if large else "small")
    found = _roomy(dataclasses.replace(found, batch=1) if large else found)
    for axis in options.methods or (*AXES, *SPECIAL):
        if axis in SPECIAL:
            yield from SPECIAL[axis](mesh)
            continue
        for value in AXES[axis]:
            shape = dataclasses.replace(found, **{axis: value}) if axis in ("time", "batch") else found
            if large and axis == "members":
                shape = dataclasses.replace(shape, time=512)
            changes = {axis: value} if axis in ("rank", "members") else {}
            yield point(axis, value, shape, name, mesh, **changes)


def h100() -> jax.sharding.Mesh | None:
    """A mesh of one H100 that is not here; None where there is a device, or no compiler for that one."""
    if jax.default_backend() != "cpu":
        return None
    try:
        return ALONE.build(list(devices("h100:1")))
    except ValueError:
        return None


def models(mesh: jax.sharding.Mesh | None) -> Iterator[dict[str, Any]]:
    """The points over model sizes."""
    for name in MODELS:
        shape = dataclasses.replace(SHAPES[name], batch=1, time=2048, dtype="bfloat16")
        shape = dataclasses.replace(shape, config=dataclasses.replace(shape.config, remat="full", scan=True))
        yield point("model", weights(SHAPES[name]), shape, name, mesh)


def depths(mesh: jax.sharding.Mesh | None) -> Iterator[dict[str, Any]]:
    """The points over numbers of layers, unrolled and in a scan."""
    for layers in DEPTHS:
        for scan in (False, True):
            shape = named_shape("llama-1b", batch=1, layers=layers, remat="full", scan=scan)
            yield point("depth", layers, shape, "llama-1b", mesh)


def chunks(mesh: jax.sharding.Mesh | None) -> Iterator[dict[str, Any]]:
    """The points over time steps a chunk of logits."""
    for chunk in CHUNKS:
        yield point("chunk", chunk, SHAPES["llama-1b"], "llama-1b", mesh, chunk=chunk)


def forwards(mesh: jax.sharding.Mesh | None) -> Iterator[dict[str, Any]]:
    """The points over LoRA's forwards and examples."""
    for batch in BATCHES:
        for forward in ("two_pass", "merged_backward", "merged", "auto"):
            shape = named_shape("llama-1b", batch=batch, layers=4)
            yield point("forward", batch, shape, "llama-1b", mesh, forward=forward)


SPECIAL = {"model": models, "depth": depths, "chunk": chunks, "forward": forwards}
"""Axes with shapes of their own."""


def point(
    axis: str, value: int, shape: Shape, size: str, mesh: jax.sharding.Mesh | None = None, **changes
) -> dict[str, Any]:
    """One point: what the compiled step holds, and what it computes by the cost model and by XLA's count."""
    step = build("lora", shape, abstract=True, **changes)
    compiled, lowered, taken = step.compiled(mesh)
    members = changes.get("members", 1)
    rank, causal = changes.get("rank", 16), mesh is not None
    forward = changes.get("forward", "auto")
    flops = members * step_cost(shape, "lora", rank=rank, forward=forward, causal=causal).flops
    counted = None if shape.config.scan or mesh else lowered.cost_analysis()["flops"]
    return {
        "axis": axis,
        "value": value,
        "size": size,
        "batch": [shape.batch, shape.time],
        "dtype": shape.dtype,
        "remat": shape.config.remat,
        "scan": shape.config.scan,
        "forward": forward,
        **taken,
        "flops": flops,
        "xla_flops": counted,
        "tokens": members * shape.batch * shape.time,
        **memory(compiled),
        **(program(compiled.as_text()) if mesh is not None else {}),
        "compiled_for": jax.default_backend() if mesh is None else mesh.devices.flat[0].device_kind,
    }


def _roomy(shape: Shape) -> Shape:
    return dataclasses.replace(shape, config=dataclasses.replace(shape.config, positions=max(AXES["time"])))
