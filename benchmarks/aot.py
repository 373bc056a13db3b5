"""Sharded steps compiled ahead of time for TPUs that are not here: bytes and operations of one chip.

Needs the TPU compiler, ``pip install libtpu``, and no TPU. It tells whether a step fits a chip and how long it
takes to compile, not how fast it runs.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.case import Options
from benchmarks.cost import step_cost
from benchmarks.programs import build
from benchmarks.shapes import SHAPES
from benchmarks.timing import memory
from ft_jax.training.parallel import Mesh
from ft_jax.training.sharding import shardings

RUNS = (
    ("llama-1b", "v5p:2x2x1", Mesh(data=1, fsdp=4, tensor=1)),
    ("llama-1b", "v5p:8x8x8", Mesh(data=16, fsdp=32, tensor=1)),
    ("llama-8b", "v5p:2x2x2", Mesh(data=1, fsdp=8, tensor=1)),
    ("llama-8b", "v5p:8x8x8", Mesh(data=8, fsdp=32, tensor=2)),
)
"""Shape, topology and mesh; the batch is one example a chip of the data and fsdp axes."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a run; ``--size`` takes only the runs of that shape."""
    for name, topology, grid in RUNS:
        if options.size in (None, name):
            yield compiled_for(name, topology, grid, options)


def compiled_for(name: str, topology: str, grid: Mesh, options: Options) -> dict[str, Any]:
    """One row: the LoRA step of a shape on a grid of chips.

    Raises:
      ValueError: where the TPU compiler is not installed.
    """
    mesh = grid.build(list(devices(topology)))
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    shape = dataclasses.replace(SHAPES[name], batch=shards * (options.batch or 1), time=options.time or 2048)
    config = dataclasses.replace(shape.config, remat=options.remat or "full", scan=True)
    step = build("lora", dataclasses.replace(shape, config=config), rank=options.rank, abstract=True)
    state = jax.eval_shape(step.program.init, step.model.params, jax.random.key(1))
    places = shardings(state, mesh)
    state = jax.tree.map(_at, state, places)
    rows_of = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    batch = {name: _at(array, rows_of) for name, array in step.batch.items()}

    def apart(state, frozen, batch):
        state, metrics = step.program.step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    learned = places.replace(frozen=None)
    jitted = jax.jit(apart, donate_argnums=0, out_shardings=(learned, everywhere))
    begin = time.perf_counter()
    lowered = jitted.lower(state.replace(frozen=None), state.frozen, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    cost = step_cost(shape, "lora", rank=options.rank, forward="auto")
    return {
        "size": name,
        "topology": topology,
        "chips": mesh.size,
        "chip": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "batch": [shape.batch, shape.time],
        "remat": config.remat,
        "trace_seconds": traced - begin,
        "compile_seconds": done - traced,
        "flops": cost.flops,
        "flops_per_chip": cost.flops / mesh.size,
        **memory(compiled),
    }


def devices(topology: str):
    """The chips of a topology that is described, not there."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:
        raise ValueError(
            f"{topology} can't be compiled for ({str(error)[:200]}); pip install libtpu, and run one process with it "
            "at a time"
        ) from None


def _at(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
