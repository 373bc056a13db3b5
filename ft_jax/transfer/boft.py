"""Orthogonal butterfly fine-tuning."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, per_path
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, fold_bias, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.oft import cayley, check_divides
from ft_jax.transfer.strength import NONE


@operator("owner")
class Butterfly(Weight):
    """``(m_last @ … @ m_0 @ base) * scale``: sparse rotations whose product mixes far more inputs than one block.

    Liu et al. 2023, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", arXiv:2311.06243,
    section 4. Factor ``i`` is ``m_i = p_i diag(r_1, …, r_n) p_iᵀ`` with the butterfly's permutation ``p_i`` and
    ``r = (1 - q)(1 + q)⁻¹`` of ``q = (rotation - rotationᵀ) / 2``. The bias is not scaled.
    """

    base: Any
    rotation: Float[Array, "factors blocks block block"]
    scale: Float[Array, " outputs"]
    owner: str = ""

    def matmul(self, x, bias=None):
        turned = x
        for i in reversed(range(self.rotation.shape[0])):
            turned = self._turn(turned, i)
        y = matmul(self.base, turned) * self.scale.astype(x.dtype)
        return y if bias is None else y + fold_bias(self.base, bias).astype(y.dtype)

    def materialize(self):
        base = materialize(self.base)
        rotation = jnp.eye(base.shape[0])
        for i in reversed(range(self.rotation.shape[0])):
            rotation = self._turn(rotation, i)
        return (rotation @ base.astype(jnp.float32) * self.scale).astype(base.dtype)

    def _turn(self, x, i):
        """``x @ m_i``."""
        factors, blocks, edge, _ = self.rotation.shape
        order = permutation(blocks * edge, blocks // 2**i, edge // 2) if factors > 1 else np.arange(blocks * edge)
        rotation = self.rotation[i].astype(jnp.float32)
        each = cayley((rotation - jnp.swapaxes(rotation, -1, -2)) / 2).astype(x.dtype)
        pieces = x[..., np.argsort(order)].reshape(*x.shape[:-1], blocks, edge)
        return jnp.einsum("...bi,bio->...bo", pieces, each).reshape(x.shape)[..., order]

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Liu et al. 2023, arXiv:2311.06243, section 4",
    example=lambda problem: boft(block=4, factors=2, also=("*/head/*",)),
    neutral="it replaces what learns by its rotations, so no number of it trains like the step without it",
)
def boft(
    block: int = 4,
    factors: int = 1,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    blocks: Mapping[str, int] = NONE,
    *,
    name: str = "transfer.boft",
) -> Method:
    """Turns what each chosen projection reads by a product of sparse rotations, and scales its outputs.

    A weight ``w [inputs, outputs]`` becomes ``(m_last @ … @ m_0 @ w) * scale``: with `factors` factors of blocks of
    `block` every output can see ``block · 2 ** (factors - 1)`` inputs, for the parameters of few small blocks. The
    rotations start at one and ``scale [outputs]`` too, so training starts at the pretrained function.

    Args:
      block: edge of each small rotation; it divides the weights' inputs.
      factors: of the butterfly; one is orthogonal fine-tuning with a scale.
      targets, also: as in `ft_jax.transfer.lora`.
      blocks: other edges by pattern over the weights' paths, the first that fits counts.
      name: the method's name.

    Raises:
      ValueError: a block below 2, fewer than 1 factor; at init, a block that does not divide the inputs, or, with
        several factors, an odd block or ``block · 2 ** (factors - 1)`` that does not; patterns that fit nothing.

    Example:
      >>> import jax
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((8, 6))}}}}
      >>> kernel = boft(block=4, factors=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.rotation.shape, kernel.scale.shape
      ((2, 2, 4, 4), (6,))
    """
    for edge in (block, *blocks.values()):
        if edge < 2:
            raise ValueError(f"{name} has block {edge}; a rotation needs at least 2 dimensions")
    if factors < 1:
        raise ValueError(f"{name} has {factors} factors; give at least 1")

    def turn(path, matrix, key):
        edge, (inputs, outputs) = per_path(path, block, blocks), shape(matrix)
        check_divides(edge, inputs, path, name)
        if factors > 1 and (edge % 2 or inputs % (edge * 2 ** (factors - 1))):
            raise ValueError(
                f"{name} has {factors} factors of blocks of {edge}, but {path} reads {inputs}; the block must be "
                f"even and block · 2^{factors - 1} divide it, so use fewer factors or other blocks"
            )
        rotation = jnp.zeros((factors, inputs // edge, edge, edge), jnp.float32)
        return Butterfly(matrix, rotation, jnp.ones(outputs, jnp.float32), name)

    return adapter(name, turn, ("rotation", "scale"), targets, also)


def permutation(width: int, groups: int, half: int) -> np.ndarray:
    """The butterfly's order of `width` inputs: in each of `groups` stretches the even pieces of `half` before the odd.

    Example:
      >>> permutation(8, 1, 2).tolist()
      [0, 1, 4, 5, 2, 3, 6, 7]
    """
    pieces = np.arange(width).reshape(groups, -1, half)
    return np.concatenate([pieces[:, 0::2], pieces[:, 1::2]], axis=1).reshape(-1)
