"""The low-rank update of LoRA, in two passes over the activations or in one over a merged weight."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.weights.operator import Weight, fold_bias, materialize, matmul, operator, shape
from ft_jax.core.weights.product import product
from ft_jax.core.weights.quantized import Quantized

FORWARDS = ("auto", "two_pass", "merged")
"""How a `LowRank` multiplies, see there."""


@operator("owner", "forward")
class LowRank(Weight):
    """``base + scale · a @ b``.

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, equation 3,
    with ``a`` and ``b`` transposed to this library's ``[inputs, outputs]`` layout and ``scale = alpha / rank``.

    ``forward`` says how ``x`` is multiplied; the function is the same:

    - ``"two_pass"``: ``x @ base + scale · (x @ a) @ b``. Nothing of the base's size is made, and members of one
      program (`ft_jax.core.members`) share the base.
    - ``"merged"``: ``x @ (base + scale · a @ b)``, which reads the activations once. The gradients of ``a`` and ``b``
      are low-rank products all the same, and the base's is formed only where the base learns. The merged weight
      stands in memory until the backward pass, once for every member, and is rounded to the compute type: in
      bfloat16 an update below 1/256 of a weight is lost in the forward pass (see docs/performance.md).
    - ``"auto"``: merged over an array where that rounds nothing (float32) and costs no more arithmetic, which is from
      ``inputs · outputs / (inputs + outputs)`` rows of ``x`` on; else in two passes, as over quantised codes and in
      generating a token at a time.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    owner: str = ""
    forward: str = "two_pass"

    def matmul(self, x, bias=None):
        if self._merges(x):
            base, factors = _chain(self)
            y = _merged_matmul(x, materialize(base), factors)
            return y if bias is None else y + fold_bias(base, bias).astype(y.dtype)
        return matmul(self.base, x, bias) + self.update(x)

    def update(self, x):
        """What is added to the base's output for `x`, in two passes."""
        inner = self.scale.astype(x.dtype) * (x @ self.a.astype(x.dtype))
        return product(inner, self.b.astype(x.dtype))

    def materialize(self):
        base = materialize(self.base)
        return base + (self.scale * (self.a @ self.b)).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)

    def _merges(self, x) -> bool:
        """Whether `x` is multiplied by a merged weight; operators other than codes keep their own way."""
        if self.forward == "two_pass" or not _plain(_chain(self)[0]):
            return False
        if self.forward == "merged":
            return True
        inputs, outputs = self.shape
        dense = not isinstance(_chain(self)[0], Weight)
        return dense and x.dtype == jnp.float32 and (x.size // inputs) * (inputs + outputs) >= inputs * outputs


def _chain(weight) -> tuple[Any, tuple]:
    """What stands under a chain of merging low-rank updates, and their ``(a, b, scale)``."""
    factors = ()
    while isinstance(weight, LowRank) and weight.forward != "two_pass":
        factors = (*factors, (weight.a, weight.b, weight.scale))
        weight = weight.base
    return weight, factors


def _plain(weight) -> bool:
    return not isinstance(weight, Weight) or isinstance(weight, Quantized)


@jax.custom_jvp
def _merged_matmul(x, base, factors):
    return x @ _merge(base, factors, x.dtype)


def _merge(base, factors, dtype):
    """``base + Σ scale · a @ b`` summed in float32 and rounded once."""
    total = base.astype(jnp.float32)
    for a, b, scale in factors:
        update = jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
        total = total + scale.astype(jnp.float32) * update
    return total.astype(dtype)


def _merged_matmul_jvp(primals, tangents):
    """The derivative in the factors by way of ``x @ a``; transposed, it gives their gradients without the base's.

    A rule for tangents and not for cotangents, so that derivatives of any order and direction go through it.
    """
    x, base, factors = primals
    dx, dbase, dfactors = tangents
    merged = _merge(base, factors, x.dtype)
    y = x @ merged
    parts = []
    if not _zero(dx):
        parts.append(dx @ merged)
    if not _zero(dbase):
        parts.append(product(x, dbase.astype(x.dtype)))
    for (a, b, scale), (da, db, dscale) in zip(factors, dfactors, strict=True):
        a, b, scale = a.astype(x.dtype), b.astype(x.dtype), scale.astype(x.dtype)
        inner = x @ a
        narrow = [scale * (x @ da.astype(x.dtype))] if not _zero(da) else []
        narrow += [dscale.astype(x.dtype) * inner] if not _zero(dscale) else []
        if narrow:
            parts.append(product(sum(narrow[1:], start=narrow[0]), b))
        if not _zero(db):
            parts.append(product(scale * inner, db.astype(x.dtype)))
    dy = sum(parts[1:], start=parts[0]) if parts else jnp.zeros_like(y)
    return y, dy


def _zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero) or tangent.dtype == jax.dtypes.float0


_merged_matmul.defjvp(_merged_matmul_jvp, symbolic_zeros=True)
