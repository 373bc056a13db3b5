"""Parameters out of stored tensors, slab by slab, straight to where they shall be."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.weights import Quantized, quantize
from ft_jax.models.architectures import Tensor
from ft_jax.models.checkpoints.gguf_weights import FORMATS, Blocks, blocks, map_arrays
from ft_jax.models.checkpoints.stored import Stored

SLAB_BYTES = 2**24
"""How much of a file is at most in memory at a time beside the parameter it goes into."""

SLABS = 16
"""In how many slabs at least a large tensor is read."""

SMALL_BYTES = 2**20
"""A tensor of no more than this is read at once."""

Sharding = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]
"""``(path, shape) -> sharding`` of a parameter, None for the default device."""


def whole(path: str, shape: tuple[int, ...]) -> None:
    """Every parameter on the default device."""


def place(path: str, tensor: Tensor, stored: Sequence[Stored], shape, storage, sharding: Sharding) -> jax.Array:
    """The parameter at `path` in its sharding and type.

    Beside it, the host holds one slab of a file and, for a while, the parameter (or this host's slices of it) in the
    smaller of the file's type and `storage`; a device holds at most the parameter in both types.

    Args:
      path: of the parameter.
      tensor: how it is stored.
      stored: the tensors of ``tensor.names``.
      shape: the parameter's.
      storage: its type; None for the file's.
      sharding: where to.
    """
    read = np.dtype(np.float32) if tensor.offset else stored[0].dtype
    storage = jnp.dtype(read if storage is None else storage)
    on_host = min((read, storage), key=lambda dtype: dtype.itemsize)
    target = sharding(path, shape)
    if target is None:
        array = jnp.asarray(assemble(tensor, stored, shape, (slice(None),) * len(shape), on_host))
    else:
        array = jax.make_array_from_callback(
            shape, target, lambda index: assemble(tensor, stored, shape, index, on_host)
        )
    array = array if array.dtype == storage else array.astype(storage)
    # Transfers run on their own; waiting for each keeps the host's copies from piling up.
    return jax.block_until_ready(array)


def assemble(tensor: Tensor, stored: Sequence[Stored], shape, index, dtype) -> np.ndarray:
    """``tensor.read(...)[index]`` in `dtype`, of which no more than a slab is held twice.

    Args:
      tensor: how the parameter is stored.
      stored: the tensors of ``tensor.names``.
      shape: the parameter's.
      index: a slice for each of its axes.
      dtype: of the result.
    """
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
    out = np.empty([end - begin for begin, end in bounds], dtype)
    if not tensor.more:
        _fill(out, tensor, stored[0], bounds)
        return out
    one = dataclasses.replace(tensor, more=())
    for place, which in enumerate(range(*bounds[0])):
        _fill(out[place], one, stored[which], bounds[1:])
    return out


def _fill(out, tensor, stored, bounds):
    """Writes the window `bounds` of the parameter into `out`, reading rows of the stored tensor as they come."""
    window = tuple(slice(begin, end) for begin, end in bounds)
    if not bounds or tensor.whole:
        out[...] = tensor.read(stored.load())[window]
        return
    # The parameter's axis along which the stored rows lie.
    axis = 1 if tensor.transposed and len(bounds) == 2 else 0
    shift = 0
    if tensor.part is not None and tensor.part.axis == 0:
        shift, tensor = tensor.part.bounds[0], dataclasses.replace(tensor, part=None)
    # A matrix is turned as a view, so that only the window is copied.
    turned = tensor.transposed and type(tensor) is Tensor
    by_rows = dataclasses.replace(tensor, transposed=False) if turned else tensor
    begin, end = bounds[axis]
    row_bytes = max(1, int(np.prod(stored.shape[1:])) * stored.dtype.itemsize)
    slab_bytes = min(SLAB_BYTES, max(SMALL_BYTES, (end - begin) * row_bytes // SLABS))
    step = max(1, slab_bytes // row_bytes)
    for first in range(begin, end, step):
        last = min(first + step, end)
        rows = by_rows.read(stored.rows(shift + first, shift + last))
        rows = np.swapaxes(rows, -1, -2) if turned else rows
        inside = tuple(slice(None) if at == axis else part for at, part in enumerate(window))
        to = tuple(slice(first - begin, last - begin) if at == axis else slice(None) for at in range(len(bounds)))
        out[to] = rows[inside]


def kept(tensor: Tensor, stored: Sequence[Stored], path: str) -> bool:
    """Whether the projection at `path` is stored in blocks that `Blocks` can hold."""
    simple = tensor.transposed and tensor.part is None and not tensor.more and not tensor.offset
    return simple and stored[0].kind in FORMATS and len(stored[0].shape) == 2 and path.endswith("/kernel")


def place_blocks(path: str, tensor: Tensor, stored: Stored, sharding: Sharding) -> Blocks:
    """A projection in the blocks of its file; see `kept`."""
    by_rows = dataclasses.replace(tensor, transposed=False)
    weight = map_arrays(by_rows.read, blocks(stored.raw(), stored.kind))
    return map_arrays(lambda array: jax.device_put(array, sharding(f"{path}/blocks", array.shape)), weight)


def quantized(path: str, weight: jax.Array, format: str, sharding: Sharding) -> Quantized:
    """A dense projection as codes and scales, each in its own sharding."""
    outline = jax.eval_shape(functools.partial(quantize, format=format), weight)
    targets = dataclasses.replace(
        outline, **{name: sharding(f"{path}/{name}", getattr(outline, name).shape) for name in ("codes", "scales")}
    )
    return _quantizer(format, targets.codes, targets.scales)(weight)


@functools.lru_cache(maxsize=256)
def _quantizer(format, codes, scales):
    def run(weight):
        made = quantize(weight, format)
        pinned = {
            name: getattr(made, name) if to is None else jax.lax.with_sharding_constraint(getattr(made, name), to)
            for name, to in (("codes", codes), ("scales", scales))
        }
        return dataclasses.replace(made, **pinned)

    return jax.jit(run)
