"""The elementwise rescaling of IA3."""

from typing import Any

from jaxtyping import Array, Float

from ft_jax.core.weights.operator import Weight, fold_bias, materialize, matmul, operator, shape


@operator("side", "owner")
class Scaled(Weight):
    """A projection whose outputs (``side="outputs"``) or inputs (``side="inputs"``) are scaled elementwise.

    Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
    Learning", arXiv:2205.05638, section 3.3. The bias is inside the scaled output, as in the paper's
    ``l ⊙ (W x + b)``.
    """

    base: Any
    scale: Float[Array, " features"]
    side: str = "outputs"
    owner: str = ""

    def matmul(self, x, bias=None):
        if self.side == "inputs":
            return matmul(self.base, x * self.scale.astype(x.dtype), bias)
        return matmul(self.base, x, bias) * self.scale.astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        scale = self.scale.astype(base.dtype)
        return base * scale[:, None] if self.side == "inputs" else base * scale

    def fold_bias(self, bias):
        bias = fold_bias(self.base, bias)
        return bias if self.side == "inputs" else bias * self.scale.astype(bias.dtype)

    @property
    def shape(self):
        return shape(self.base)
