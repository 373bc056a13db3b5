"""The low-rank update of LoRA, in two passes over the activations or in one over a merged weight."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.weights.operator import Weight, fold_bias, materialize, matmul, operator, shape
from ft_jax.core.weights.product import product
from ft_jax.core.weights.quantized import Quantized

FORWARDS = ("auto", "two_pass", "merged_backward", "merged")
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
    - ``"merged_backward"``: two passes forward, so no update is lost, and ``x``'s gradient is ``cotangent @ mergedᵀ``,
      one product in place of two and their sum. The merged weight is made for that product alone.
    - ``"auto"``: over an array, where that costs no more arithmetic (from ``inputs · outputs / (inputs + outputs)``
      rows of ``x`` on), merged in float32, which rounds nothing, and ``"merged_backward"`` in half precision; else in
      two passes, as over quantised codes and in generating a token at a time.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    owner: str = ""
    forward: str = "two_pass"

    def matmul(self, x, bias=None):
        forward = self._forward(x)
        if forward == "two_pass":
            return matmul(self.base, x, bias) + self.update(x)
        base, factors = _chain(self)
        y = _joined(forward == "merged", x, materialize(base), factors)
        return y if bias is None else y + fold_bias(base, bias).astype(y.dtype)

    def update(self, x):
        """What is added to the base's output for `x`, in two passes."""
        return two_pass(x, self.a, self.b, self.scale)

    def materialize(self):
        base = materialize(self.base)
        return base + (self.scale * (self.a @ self.b)).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)

    def _forward(self, x) -> str:
        """What to do for `x`; over operators other than codes, two passes, for those keep their own way."""
        base = _chain(self)[0]
        if isinstance(base, Weight) and (self.forward == "auto" or not isinstance(base, Quantized)):
            return "two_pass"
        if self.forward != "auto":
            return self.forward
        inputs, outputs = self.shape
        if (x.size // inputs) * (inputs + outputs) < inputs * outputs:
            return "two_pass"
        return "merged" if x.dtype == jnp.float32 else "merged_backward"


def two_pass(x, a, b, scale):
    """``scale · (x @ a) @ b`` in the type of `x`."""
    a, b, scale = (part.astype(x.dtype) for part in (a, b, scale))
    return product(scale * (x @ a), b)


def _chain(weight) -> tuple[Any, tuple]:
    """What stands under a chain of merging low-rank updates, and their ``(a, b, scale)``."""
    factors = ()
    while isinstance(weight, LowRank) and weight.forward != "two_pass":
        factors = (*factors, (weight.a, weight.b, weight.scale))
        weight = weight.base
    return weight, factors


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _joined(merges, x, base, factors):
    """``x @ (base + Σ scale · a @ b)``, by a merged weight or in passes over `x`."""
    return x @ _merge(base, factors, x.dtype) if merges else _in_passes(x, base, factors)


def _in_passes(x, base, factors):
    return sum((two_pass(x, *factor) for factor in factors), start=matmul(base, x))


def _merge(base, factors, dtype):
    """``base + Σ scale · a @ b`` summed in float32 and rounded once."""
    total = base.astype(jnp.float32)
    for a, b, scale in factors:
        update = jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
        total = total + scale.astype(jnp.float32) * update
    return total.astype(dtype)


def _joined_jvp(merges, primals, tangents):
    """The derivative in the factors by way of ``x @ a``; transposed, it gives their gradients without the base's.

    A rule for tangents and not for cotangents, so that derivatives of any order and direction go through it.
    """
    x, base, factors = primals
    dx, dbase, dfactors = tangents
    parts = []
    if merges:
        merged = _merge(base, factors, x.dtype)
        y, through = x @ merged, lambda dx, base, factors: dx @ merged
    else:
        # Made where it is needed, and not kept until then.
        y, through = _in_passes(x, base, factors), jax.checkpoint(_through_merged, prevent_cse=False)
    if not _zero(dx):
        parts.append(through(dx, base, factors))
    if not _zero(dbase):
        parts.append(product(x, dbase.astype(x.dtype)))
    for factor, (da, db, dscale) in zip(factors, dfactors, strict=True):
        a, b, scale = (part.astype(x.dtype) for part in factor)
        inner = x @ a
        narrow = [scale * (x @ da.astype(x.dtype))] if not _zero(da) else []
        narrow += [dscale.astype(x.dtype) * inner] if not _zero(dscale) else []
        if narrow:
            parts.append(product(sum(narrow[1:], start=narrow[0]), b))
        if not _zero(db):
            parts.append(product(scale * inner, db.astype(x.dtype)))
    dy = sum(parts[1:], start=parts[0]) if parts else jnp.zeros_like(y)
    return y, dy


def _through_merged(dx, base, factors):
    return dx @ _merge(base, factors, dx.dtype)


def _zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero) or tangent.dtype == jax.dtypes.float0


_joined.defjvp(_joined_jvp, symbolic_zeros=True)
