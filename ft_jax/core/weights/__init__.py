"""Weights are operators: a projection is ``matmul(weight, x, bias)``, dispatched on the weight's type.

A plain array is a weight. So is every `Weight`: a small pytree dataclass that holds another weight as
``base``. They nest, so QLoRA is ``LowRank(base=Quantized(...))`` and has no code of its own.
"""

from ft_jax.core.weights.low_rank import FORWARDS, LowRank
from ft_jax.core.weights.operator import (
    Transposed,
    Weight,
    cast,
    embed,
    fold_bias,
    is_weight,
    materialize,
    matmul,
    matmuls,
    merge,
    shape,
)
from ft_jax.core.weights.quantized import Quantized, quantize
from ft_jax.core.weights.scaled import Scaled

__all__ = [
    "FORWARDS",
    "LowRank",
    "Quantized",
    "Scaled",
    "Transposed",
    "Weight",
    "cast",
    "embed",
    "fold_bias",
    "is_weight",
    "materialize",
    "matmul",
    "matmuls",
    "merge",
    "quantize",
    "shape",
]
