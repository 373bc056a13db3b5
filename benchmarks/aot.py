"""Steps compiled ahead of time for accelerators that are not here: bytes, operations and kernels of one chip.

Needs the compiler and not the chip: ``pip install libtpu`` for TPUs, ``pip install "jax[cuda12]"`` for an H100, with
``JAX_PLATFORMS=cpu`` where no GPU is. It tells what a step holds, whether it fits, which fused kernels it takes and how
long it compiles, not how fast it runs. XLA times no kernels for a GPU that isn't there, so it compiles sooner than on
one, and chooses its products' tiles by rule.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ft_jax.core.mesh import BATCH_AXES
from ft_jax.training.parallel import Mesh

from .case import Options
from .cost import step_cost
from .kernels import kernels
from .programs import build
from .shapes import SHAPES
from .timing import memory

H100_FLOPS, H100_BANDWIDTH = 989e12, 3.35e12
"""Published: bfloat16 operations a second of dense products, bytes a second of memory."""

ALONE = Mesh(data=1, fsdp=1, tensor=1)


@dataclasses.dataclass(frozen=True)
class Run:
    """A step for some chips.

    Attributes:
      size: of `benchmarks.shapes.SHAPES`.
      topology: a TPU's, or ``h100:<count>`` on one host.
      mesh: of the chips.
      method: of `benchmarks.programs.METHODS`.
      batch: examples for each part of the data and fsdp axes; None for the shape's own.
      changes: of the model's configuration.
      forward: of LoRA.
      time: tokens of an example.
      members: runs in one program over a frozen base that they share; 0 for a plain step.
      dtype: that the network computes in; None for the shape's own.
    """

    size: str
    topology: str
    mesh: Mesh = ALONE
    method: str = "lora"
    batch: int | None = 1
    changes: tuple[tuple[str, Any], ...] = ()
    forward: str = "auto"
    time: int = 2048
    members: int = 0
    dtype: str | None = None

    @property
    def kind(self) -> str:
        """Of chip."""
        return self.topology.partition(":")[0]


DEEP = (("remat", "full"), ("scan", True))

RUNS = (
    Run("llama-1b", "v5p:2x2x1", Mesh(data=1, fsdp=4, tensor=1), changes=DEEP),
    Run("llama-1b", "v5p:8x8x8", Mesh(data=16, fsdp=32, tensor=1), changes=DEEP),
    Run("llama-8b", "v5p:2x2x2", Mesh(data=1, fsdp=8, tensor=1), changes=DEEP),
    Run("llama-8b", "v5p:8x8x8", Mesh(data=8, fsdp=32, tensor=2), changes=DEEP),
    *(
        Run("llama-1b", "h100:1", method=method, batch=None)
        for method in ("lora", "full", "qlora", "dora", "distillation", "soft", "full+distillation", "dpo", "composed")
    ),
    Run("llama-1b", "h100:1", batch=None, forward="merged"),
    Run("llama-1b", "h100:1", batch=None, changes=(("remat", "full"),)),
    Run("llama-1b", "h100:1", batch=None, changes=(("remat", "dots"),)),
    Run("llama-8b", "h100:1", method="qlora", batch=1, changes=(("remat", "full"),)),
    Run("llama-8b", "h100:8", Mesh(data=1, fsdp=8, tensor=1), changes=(("remat", "full"),)),
    Run("llama-8b", "h100:8", Mesh(data=1, fsdp=8, tensor=1), method="full", changes=(("remat", "full"),)),
    # 16 rates and decays over 3 folds, as `benchmarks.sweeps` has them, and one of these runs.
    *(Run("minilm", "h100:1", batch=4, time=16, members=members, dtype="bfloat16") for members in (48, 0)),
)


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a run; ``--size`` and ``--methods`` take only the runs of that shape and those steps.

    Runs whose compiler is not installed are left out with a warning.

    Raises:
      ValueError: where no run's compiler is installed.
    """
    chosen = [
        run
        for run in RUNS
        if options.size in (None, run.size) and (not options.methods or run.method in options.methods)
    ]
    missing: dict[str, ValueError] = {}
    for kind in {run.kind: run for run in chosen}.values():
        try:
            devices(kind.topology)
        except ValueError as error:
            missing[kind.kind] = error
            print(f"warning: {error}", file=sys.stderr)
    if len(missing) == len({run.kind for run in chosen}):
        raise next(iter(missing.values()), ValueError("no run of aot has that size and those methods"))
    for run in chosen:
        if run.kind not in missing:
            yield compiled_for(run, rank=options.rank)


def compiled_for(run: Run, rank: int = 16) -> dict[str, Any]:
    """One row.

    Raises:
      ValueError: where the chip's compiler is not installed.
    """
    mesh = run.mesh.build(list(devices(run.topology)))
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    shape = SHAPES[run.size]
    shape = dataclasses.replace(shape, batch=shape.batch if run.batch is None else run.batch * shards, time=run.time)
    shape = dataclasses.replace(shape, config=dataclasses.replace(shape.config, **dict(run.changes)))
    shape = dataclasses.replace(shape, dtype=run.dtype or shape.dtype)
    step = build(run.method, shape, rank=rank, forward=run.forward, members=run.members, abstract=True)
    compiled, _, taken = step.compiled(mesh)
    causal = run.kind == "h100"
    cost = step_cost(shape, run.method, rank=rank, forward=run.forward, causal=causal) * max(run.members, 1)
    return {
        "size": run.size,
        "method": run.method,
        "topology": run.topology,
        "chips": mesh.size,
        "chip": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "batch": [shape.batch, shape.time],
        "members": run.members,
        "forward": run.forward,
        "remat": shape.config.remat,
        "scan": shape.config.scan,
        **taken,
        "flops": cost.flops,
        "flops_per_chip": cost.flops / mesh.size,
        **memory(compiled),
        **(program(compiled.as_text()) if run.kind == "h100" else {}),
    }


def program(text: str) -> dict[str, Any]:
    """What an H100's kernels compute and move, and the least seconds of one after another at its published rates."""
    found = kernels(text)
    return {
        "kernels": sum(kernel.runs for kernel in found),
        "attention_kernels": sum(kernel.runs for kernel in found if "fmha" in kernel.kind),
        "kernel_flops": sum(kernel.runs * kernel.flops for kernel in found),
        "kernel_bytes": sum(kernel.runs * kernel.bytes for kernel in found),
        "kernel_floor_seconds": sum(kernel.floor(H100_FLOPS, H100_BANDWIDTH) for kernel in found),
    }


def devices(topology: str):
    """The chips of a topology that is described, not there."""
    from jax.experimental import topologies

    name, _, count = topology.partition(":")
    try:
        if name == "h100":
            jax.devices()  # finds the plugins
            described = {"target_config": Path(__file__).with_name("h100.txtpb").read_text(encoding="utf-8")}
            return topologies.get_topology_desc("", "cuda", topology=f"1x1x{count}", **described).devices
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:
        install = 'pip install "jax[cuda12]"' if name == "h100" else "pip install libtpu"
        raise ValueError(
            f"{topology} can't be compiled for ({str(error)[:200]}); {install}, and run one process with it at a time"
        ) from None
