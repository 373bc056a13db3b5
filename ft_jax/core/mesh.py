"""What a program is traced for, as far as pure functions need to know it: a mesh, a device, how many copies."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

BATCH_AXES = ("data", "fsdp")
"""The axes of a mesh over which the examples of a batch are split."""

MEMORY = 2**34
"""Bytes that a device is taken to have where it can't be asked, see `traced_memory`."""

_DEVICE: contextvars.ContextVar[jax.Device | None] = contextvars.ContextVar("device", default=None)
_COPIES: contextvars.ContextVar[int] = contextvars.ContextVar("copies", default=1)


@contextlib.contextmanager
def traced_for(mesh: jax.sharding.Mesh) -> Iterator[None]:
    """What is traced here is meant for `mesh`, and XLA splits it over the devices."""
    before = _DEVICE.set(mesh.devices.flat[0])
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _DEVICE.reset(before)


def traced_device() -> jax.Device:
    """The kind of device that is traced for, which need not be here: the mesh's, else jax's default one.

    Example:
      >>> traced_device().platform
      'cpu'
    """
    chosen = _DEVICE.get() or jax.config.jax_default_device
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]


def traced_memory() -> int:
    """Bytes of memory of the device that is traced for.

    `MEMORY` where it doesn't say (a CPU), is not here, or where there are several processes: these have to trace the
    same program, whatever their devices say.

    Example:
      >>> traced_memory()
      17179869184
    """
    if jax.process_count() > 1:
        return MEMORY
    try:
        told = traced_device().memory_stats()
    except jax.errors.JaxRuntimeError:
        return MEMORY
    return (told or {}).get("bytes_limit", MEMORY)


def mapped(function: Callable, count: int, in_axes: Any = 0, out_axes: Any = 0) -> Callable:
    """`jax.vmap` of what runs in `count` copies at once, which share the device's memory (see `traced_copies`).

    Members of a population, tasks of a meta-learner, single examples' gradients.
    """

    def run(*arguments):
        before = _COPIES.set(count * _COPIES.get())
        try:
            return jax.vmap(function, in_axes, out_axes)(*arguments)
        finally:
            _COPIES.reset(before)

    return run


def traced_copies() -> int:
    """In how many copies the device will run what is traced.

    Example:
      >>> int(mapped(lambda x: x + traced_copies(), 4)(jax.numpy.zeros(4, int))[0])
      4
    """
    return _COPIES.get()


def batch_shards() -> int:
    """Into how many parts the mesh traced for splits a batch; 1 where there is none.

    Example:
      >>> batch_shards()
      1
    """
    return math.prod(_batch_axes().values())


def split_by_example(x: Array) -> Array:
    """`x`, ``[batch, ...]``, with each example kept on the device that its batch was put on.

    Without it XLA may follow the split of the parameters, and split activations by width where the batch should stay
    split and the parameters be gathered. Nothing where no mesh is traced for, or the batch does not divide over it.
    """
    if batch_shards() == 1 or x.shape[0] % batch_shards():
        return x
    unconstrained = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(tuple(_batch_axes()), *unconstrained))


def rows_whole(table: Array) -> Array:
    """`table`, ``[rows, width]``, with each row on one device before any is looked up, so that examples find theirs.

    Rows split by width would give activations split by width. Nothing where no mesh is traced for.
    """
    if batch_shards() == 1:
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec(PartitionSpec.UNCONSTRAINED, None))


def _batch_axes() -> dict[str, int]:
    """Those of `BATCH_AXES` that XLA splits over (under pmap the program holds one device's part), with their sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in axes if name in BATCH_AXES and kind == AxisType.Auto}
