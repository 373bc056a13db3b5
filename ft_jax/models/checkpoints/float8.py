"""Float8 tensors of a checkpoint with their scales, as the numbers that they stand for."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ft_jax.models.checkpoints.stored import FLOAT32, Stored
from ft_jax.outside import printable

TYPES = tuple(np.dtype(each) for each in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))

SCALES = ("_scale_inv", "_scale")
"""What follows a tensor's name in that of its scales, which multiply, whatever it says: of blocks, of rows or one."""

OF_INPUTS = (".input_scale", ".activation_scale")
"""Scales of activations, which are not quantised here."""

EDGE = 128
"""Of a block where config.json has no ``weight_block_size``."""


def dequantised(folder: Path, tensors: Mapping[str, Stored], config_json: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors of a checkpoint with those in float8 times their scales, in float32; the scales are taken out.

    Args:
      folder: for messages.
      tensors: of the folder.
      config_json: whose ``quantization_config`` says the edges of the blocks.

    Raises:
      ValueError: scales that fit no blocks of their tensor.
    """
    settings = config_json.get("quantization_config") or {}
    block = tuple(settings.get("weight_block_size") or (EDGE, EDGE))
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith(OF_INPUTS)}
    if not any(tensor.dtype in TYPES for tensor in tensors.values()):
        return dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES:
            continue
        scales = next((name + ending for ending in SCALES if name + ending in tensors), None)
        if scales is None:
            made[name] = dataclasses.replace(
                tensor, load=lambda tensor=tensor: tensor.load().astype(np.float32), dtype=FLOAT32, slab=None
            )
            continue
        made[name] = _scaled(folder, name, tensor, np.asarray(made.pop(scales).load(), np.float32), block)
    return made


def _scaled(folder, name, tensor, scales, block) -> Stored:
    shape = tensor.shape
    if scales.size == 1:
        scales, block = scales.reshape(1, 1), shape
    elif scales.ndim <= 2 and scales.size == shape[0]:
        scales, block = scales.reshape(-1, 1), (1, shape[-1])
    wanted = (
        tuple(-(-size // edge) for size, edge in zip(shape, block, strict=True)) if len(shape) == len(block) else ()
    )
    if wanted != scales.shape:
        raise ValueError(
            f"{folder}: float8 tensor {printable(name)} of shape {shape} has scales of shape {scales.shape}, and "
            f"blocks of {block} would have {wanted}; correct weight_block_size in config.json"
        )

    def rows(begin, end):
        own = scales[np.arange(begin, end) // block[0]]
        own = np.repeat(own, block[1], axis=1)[:, : shape[1]] if len(shape) == 2 else own
        return tensor.rows(begin, end).astype(np.float32) * own

    return Stored(shape, load=lambda: rows(0, shape[0]), slab=rows)
