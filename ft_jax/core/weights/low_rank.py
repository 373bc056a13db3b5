"""The low-rank update of LoRA."""

from typing import Any

from jaxtyping import Array, Float

from ft_jax.core.weights.operator import Weight, materialize, matmul, operator, shape


@operator("owner")
class LowRank(Weight):
    """``base + scale · a @ b``.

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, equation 3,
    with ``a`` and ``b`` transposed to this library's ``[inputs, outputs]`` layout and ``scale = alpha / rank``.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    owner: str = ""

    def matmul(self, x, bias=None):
        update = (x @ self.a.astype(x.dtype)) @ self.b.astype(x.dtype)
        return matmul(self.base, x, bias) + self.scale.astype(x.dtype) * update

    def materialize(self):
        base = materialize(self.base)
        return base + (self.scale * (self.a @ self.b)).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)
