"""Weights kept in the blocks of a GGUF file: 32 numbers share a scale, and in some formats a minimum."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.weights.operator import Weight, operator
from ft_jax.outside import printable

BLOCK = 32

FORMATS = ("Q8_0", "Q4_0", "Q4_1")
"""The block formats kept as they are; tensors of others are dequantised."""


@operator("format")
class Blocks(Weight):
    """A matrix ``[inputs, outputs]`` in llama.cpp's blocks of 32 along the inputs.

    ``weight[i, o] = scales[o, i // 32] · level(codes)[o, i] (+ minimums[o, i // 32])``, in float32, where the level is
    the int8 code (``"Q8_0"``), the 4-bit code minus 8 (``"Q4_0"``) or the 4-bit code (``"Q4_1"``). A byte holds code
    ``i`` of its block in its low half and code ``i + 16`` in its high half. The numbers equal the dequantised file's.
    """

    codes: Array
    scales: Float[Array, "outputs blocks"]
    minimums: Float[Array, "outputs blocks"] | None
    format: str

    def matmul(self, x, bias=None):
        y = jnp.einsum("...i,oi->...o", x, self._rows().astype(x.dtype))
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        return self._rows().T

    def _rows(self):
        outputs, blocks = self.scales.shape
        if self.format == "Q8_0":
            levels = self.codes.reshape(outputs, blocks, BLOCK).astype(jnp.float32)
        else:
            pairs = self.codes.reshape(outputs, blocks, BLOCK // 2)
            levels = jnp.concatenate([pairs & 15, pairs >> 4], axis=-1).astype(jnp.float32)
            levels = levels - 8.0 if self.format == "Q4_0" else levels
        rows = self.scales.astype(jnp.float32)[..., None] * levels
        if self.minimums is not None:
            rows = rows + self.minimums.astype(jnp.float32)[..., None]
        return rows.reshape(outputs, blocks * BLOCK)

    @property
    def shape(self):
        outputs, blocks = self.scales.shape
        return (blocks * BLOCK, outputs)


def blocks(raw: np.ndarray, format: str) -> Blocks:
    """The operator of a stored matrix's bytes ``[outputs, bytes a row]``, its leaves NumPy arrays.

    Raises:
      ValueError: where the format isn't one of `FORMATS`.

    Example:
      >>> scale_of_two = np.float16(2).tobytes()
      >>> raw = np.frombuffer(scale_of_two + bytes(range(32)), np.uint8).reshape(1, 34)
      >>> blocks(raw, "Q8_0").materialize()[:4, 0].tolist()
      [0.0, 2.0, 4.0, 6.0]
    """
    if format not in FORMATS:
        raise ValueError(f"blocks of format {printable(format)} can't be kept; these can: {', '.join(FORMATS)}")
    head = 4 if format == "Q4_1" else 2
    tail = BLOCK if format == "Q8_0" else BLOCK // 2
    outputs = raw.shape[0]
    grouped = np.ascontiguousarray(raw).reshape(outputs, -1, head + tail)
    numbers = np.ascontiguousarray(grouped[..., :head]).view(np.float16)
    codes = np.ascontiguousarray(grouped[..., head:]).reshape(outputs, -1)
    return Blocks(
        codes=codes.view(np.int8) if format == "Q8_0" else codes,
        scales=np.ascontiguousarray(numbers[..., 0]),
        minimums=np.ascontiguousarray(numbers[..., 1]) if format == "Q4_1" else None,
        format=format,
    )


def map_arrays(function, weight: Blocks) -> Blocks:
    """`weight` with ``function(array)`` in place of its codes, scales and minimums, which share the axis of outputs."""
    return dataclasses.replace(
        weight,
        codes=function(weight.codes),
        scales=function(weight.scales),
        minimums=None if weight.minimums is None else function(weight.minimums),
    )
