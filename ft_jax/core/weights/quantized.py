"""Block-quantised weights: 4-bit NormalFloat and 8-bit integers."""

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


@operator("inputs", "outputs", "format")
class Quantized(Weight):
    """``[inputs, outputs]`` stored as small codes and one scale per block of consecutive values.

    Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3: ``w ≈ scale[block] · level[code]``, blocks
    run along the flattened array. ``format`` is ``"nf4"`` (two codes a byte) or ``"int8"``. The scales are
    float32, so 4-bit weights in blocks of 64 take 0.5625 bytes each.
    """

    codes: UInt8[Array, " packed"]
    scales: Float[Array, " blocks"]
    inputs: int
    outputs: int
    format: str

    def matmul(self, x, bias=None):
        y = x @ self.materialize().astype(x.dtype)
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        if self.format == "nf4":
            codes = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1).reshape(-1)
            values = jnp.asarray(NF4)[codes]
        else:
            values = self.codes.view(jnp.int8).astype(jnp.float32) / 127.0
        blocks = values.reshape(self.scales.shape[0], -1) * self.scales[:, None]
        return blocks.reshape(-1)[: self.inputs * self.outputs].reshape(self.inputs, self.outputs)

    @property
    def shape(self):
        return (self.inputs, self.outputs)


def quantize(weight: Float[Array, "inputs outputs"], format: str = "nf4", block: int = 64) -> Quantized:
    """`weight` rounded to the nearest level in blocks of `block` values scaled by their largest magnitude.

    Args:
      weight: a dense matrix.
      format: ``"nf4"`` or ``"int8"``.
      block: values per scale, even.

    Raises:
      ValueError: on an unknown format or an odd block.

    Example:
      >>> import jax.numpy as jnp
      >>> q = quantize(jnp.linspace(-1, 1, 128).reshape(16, 8), "int8")
      >>> bool(jnp.max(jnp.abs(q.materialize() - jnp.linspace(-1, 1, 128).reshape(16, 8))) < 1 / 127)
      True
    """
    if format not in ("nf4", "int8"):
        raise ValueError(f"quantisation format {format!r} is unknown; use 'nf4' or 'int8'")
    if block < 2 or block % 2:
        raise ValueError(f"quantisation block {block} must be a positive even number, such as 64")
    inputs, outputs = weight.shape
    flat = weight.astype(jnp.float32).reshape(-1)
    blocks = jnp.pad(flat, (0, -flat.size % block)).reshape(-1, block)
    scales = jnp.max(jnp.abs(blocks), axis=1)
    unit = blocks / jnp.where(scales == 0, 1.0, scales)[:, None]
    if format == "int8":
        codes = jnp.round(unit * 127.0).astype(jnp.int8).view(jnp.uint8).reshape(-1)
    else:
        midpoints = jnp.asarray((NF4[1:] + NF4[:-1]) / 2)
        index = jnp.searchsorted(midpoints, unit.reshape(-1)).astype(jnp.uint8)
        codes = (index[0::2] << 4) | index[1::2]
    return Quantized(codes=codes, scales=scales, inputs=inputs, outputs=outputs, format=format)
