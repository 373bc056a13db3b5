"""Block-quantised weights: 4-bit NormalFloat and 8-bit integers, with scales that may be quantised again."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ft_jax.core.weights.operator import Weight, operator

# The 16 levels of NormalFloat4: quantiles of N(0, 1) scaled to [-1, 1], with an exact zero
# (Dettmers et al. 2023, arXiv:2305.14314, appendix E).
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    dtype=np.float32,
)  # fmt: skip

FORMATS = ("nf4", "int8")

SCALES_PER_BLOCK = 256
"""How many scales share a second-level scale (Dettmers et al. 2023, section 3)."""


@operator("inputs", "outputs", "format")
class Quantized(Weight):
    """``[inputs, outputs]`` stored as small codes and one scale per block of consecutive values.

    Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3: ``w ≈ scale[block] · level[code]``, blocks
    run along the flattened array. ``format`` is ``"nf4"`` (two codes a byte) or ``"int8"``. With float32 scales,
    4-bit weights in blocks of 64 take 0.5625 bytes each; doubly quantised ones, where
    ``scale ≈ offset + second[group of 256] · code / 127``, take 0.516.

    A product dequantises the weight, and its backward pass does so again rather than keep it: between the two
    passes of a layer only the codes are in memory.
    """

    codes: UInt8[Array, " packed"]
    scales: Float[Array, " blocks"] | UInt8[Array, " blocks"]
    inputs: int
    outputs: int
    format: str
    second: Float[Array, " groups"] | None = None
    offset: Float[Array, ""] | None = None

    def matmul(self, x, bias=None):
        y = jax.checkpoint(lambda weight, x: x @ weight.materialize().astype(x.dtype))(self, x)
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        if self.format == "nf4":
            codes = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1).reshape(-1)
            values = jnp.asarray(NF4)[codes]
        else:
            values = self.codes.view(jnp.int8).astype(jnp.float32) / 127.0
        blocks = values.reshape(self.scales.shape[0], -1) * self.block_scales()[:, None]
        return blocks.reshape(-1)[: self.inputs * self.outputs].reshape(self.inputs, self.outputs)

    def block_scales(self) -> Float[Array, " blocks"]:
        """Every block's scale in float32."""
        if self.second is None:
            return self.scales
        codes = self.scales.view(jnp.int8).astype(jnp.float32) / 127.0
        return self.offset + jnp.repeat(self.second, SCALES_PER_BLOCK)[: codes.shape[0]] * codes

    @property
    def block(self) -> int:
        """Values per scale."""
        return self.codes.shape[-1] * (2 if self.format == "nf4" else 1) // self.scales.shape[-1]

    @property
    def shape(self):
        return (self.inputs, self.outputs)


def quantize(
    weight: Float[Array, "inputs outputs"], format: str = "nf4", block: int = 64, double: bool = False
) -> Quantized:
    """`weight` rounded to the nearest level in blocks of `block` values scaled by their largest magnitude.

    Args:
      weight: a dense matrix.
      format: ``"nf4"`` or ``"int8"``.
      block: values per scale, even.
      double: whether the scales, less their mean, are rounded to 8 bits in groups of 256 (double quantisation).

    Raises:
      ValueError: on an unknown format or an odd block.

    Example:
      >>> import jax.numpy as jnp
      >>> q = quantize(jnp.linspace(-1, 1, 128).reshape(16, 8), "int8")
      >>> bool(jnp.max(jnp.abs(q.materialize() - jnp.linspace(-1, 1, 128).reshape(16, 8))) < 1 / 127)
      True
    """
    if format not in FORMATS:
        raise ValueError(f"quantisation format {format!r} is unknown; use {' or '.join(map(repr, FORMATS))}")
    if block < 2 or block % 2:
        raise ValueError(f"quantisation block {block} must be a positive even number, such as 64")
    inputs, outputs = weight.shape
    flat = weight.astype(jnp.float32).reshape(-1)
    blocks = jnp.pad(flat, (0, -flat.size % block)).reshape(-1, block)
    exact = jnp.max(jnp.abs(blocks), axis=1)
    scales, second, offset = _doubled(exact) if double else (exact, None, None)
    packed = Quantized(jnp.zeros(0, jnp.uint8), scales, inputs, outputs, format, second, offset)
    rounded = packed.block_scales()
    unit = jnp.clip(blocks / jnp.where(rounded == 0, 1.0, rounded)[:, None], -1.0, 1.0)
    if format == "int8":
        codes = jnp.round(unit * 127.0).astype(jnp.int8).view(jnp.uint8).reshape(-1)
    else:
        midpoints = jnp.asarray((NF4[1:] + NF4[:-1]) / 2)
        index = jnp.searchsorted(midpoints, unit.reshape(-1)).astype(jnp.uint8)
        codes = (index[0::2] << 4) | index[1::2]
    return Quantized(codes, scales, inputs, outputs, format, second, offset)


def _doubled(scales):
    """``(8-bit codes, scale of each group of 256, mean)`` of positive scales."""
    offset = jnp.mean(scales)
    groups = jnp.pad(scales - offset, (0, -scales.size % SCALES_PER_BLOCK)).reshape(-1, SCALES_PER_BLOCK)
    second = jnp.max(jnp.abs(groups), axis=1)
    codes = jnp.round(groups / jnp.where(second == 0, 1.0, second)[:, None] * 127.0)
    return codes.astype(jnp.int8).view(jnp.uint8).reshape(-1)[: scales.size], second, offset
