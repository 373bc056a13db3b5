"""The low-rank update of LoRA, in two passes over the activations or in one over a merged weight."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.mesh import batch_shards
from ft_jax.core.weights.operator import Weight, fold_bias, materialize, matmul, matmuls, operator, shape
from ft_jax.core.weights.product import product
from ft_jax.core.weights.quantized import Quantized

FORWARDS = ("auto", "two_pass", "merged_backward", "merged")
"""How a `LowRank` multiplies, see there."""

ROWS = {"merged": 1, "merged_backward": 8}
"""From how many rows on a weight is merged, in parts of ``inputs · outputs / (inputs + outputs)``, where merging takes
as much arithmetic as two passes. For the backward pass alone it writes a weight where two passes write activations: by
the bytes that an H100's kernels move it pays from several times as many rows on (docs/performance.md)."""


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
    - ``"auto"``: with enough rows of ``x`` (`ROWS`) merged over an array in float32, which rounds nothing, and
      ``"merged_backward"`` over codes and in half precision; with fewer, as in generating a token at a time, in two
      passes. Projections of one input (`matmuls`) go one way together.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    owner: str = ""
    forward: str = "two_pass"

    def matmul(self, x, bias=None):
        return self.matmuls([self], x, [bias])[0]

    @classmethod
    def matmuls(cls, weights, x, biases):
        forwards = [weight._forward(x) for weight in weights]
        if len(set(forwards)) > 1 and all(weight.forward == "auto" for weight in weights):
            forwards = ["two_pass"] * len(weights)
        if len(set(forwards)) > 1:
            return [cls.matmuls([weight], x, [bias])[0] for weight, bias in zip(weights, biases, strict=True)]
        if forwards[0] == "two_pass":
            bases = matmuls([weight.base for weight in weights], x, biases)
            updates = two_passes(x, [(weight.a, weight.b, weight.scale) for weight in weights])
            return [y + update for y, update in zip(bases, updates, strict=True)]
        bases, chains = zip(*map(_chain, weights), strict=True)
        products = _joined(forwards[0] == "merged", x, bases, chains)
        return [
            y if bias is None else y + fold_bias(base, bias).astype(y.dtype)
            for y, base, bias in zip(products, bases, biases, strict=True)
        ]

    def update(self, x):
        """What is added to the base's output for `x`, in two passes."""
        return two_passes(x, [(self.a, self.b, self.scale)])[0]

    def materialize(self):
        base = materialize(self.base)
        return base + (self.scale * (self.a @ self.b)).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)

    def _forward(self, x) -> str:
        """What to do for `x`; over operators other than codes, two passes, for those keep their own way."""
        base = _chain(self)[0]
        coded = isinstance(base, Quantized)
        if isinstance(base, Weight) and not coded:
            return "two_pass"
        if self.forward != "auto":
            return self.forward
        rows = x.size // x.shape[-1] // batch_shards()
        return automatic(rows, *self.shape, exact=x.dtype == jnp.float32 and not coded)


def automatic(rows: int, inputs: int, outputs: int, exact: bool) -> str:
    """What ``"auto"`` stands for with so many rows on a device; `exact` where merging neither rounds nor copies codes.

    Example:
      >>> automatic(32, 64, 64, exact=True), automatic(32, 64, 64, exact=False)
      ('merged', 'two_pass')
    """
    merges = "merged" if exact else "merged_backward"
    return merges if rows >= ROWS[merges] * inputs * outputs / (inputs + outputs) else "two_pass"


def two_passes(x, factors) -> list[Array]:
    """``scale · (x @ a) @ b`` for each of the factors ``(a, b, scale)``, in the type of `x`, which is read once."""
    inners = _over(x, [a for a, _, _ in factors])
    return [
        product(scale.astype(x.dtype) * inner, b.astype(x.dtype))
        for inner, (_, b, scale) in zip(inners, factors, strict=True)
    ]


def _over(x, matrices) -> list[Array]:
    """``x @ matrix`` of each, as one product over all their columns."""
    columns = jnp.concatenate([matrix.astype(x.dtype) for matrix in matrices], axis=1)
    return jax.lax.split(x @ columns, [matrix.shape[1] for matrix in matrices], axis=x.ndim - 1)


def _chain(weight) -> tuple[Any, tuple]:
    """What stands under a chain of merging low-rank updates, and their ``(a, b, scale)``."""
    factors = ()
    while isinstance(weight, LowRank) and weight.forward != "two_pass":
        factors = (*factors, (weight.a, weight.b, weight.scale))
        weight = weight.base
    return weight, factors


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _joined(merges, x, bases, chains):
    """``x @ (base + Σ scale · a @ b)`` for each base and its chain of factors, by merged weights or in passes."""
    if merges:
        return [x @ _merge(base, chain, x.dtype) for base, chain in zip(bases, chains, strict=True)]
    return _in_passes(x, bases, chains)


def _in_passes(x, bases, chains):
    updates = _grouped(chains, two_passes(x, _flat(chains)))
    return [sum(own, start=matmul(base, x)) for base, own in zip(bases, updates, strict=True)]


def _flat(chains) -> list:
    return [factor for chain in chains for factor in chain]


def _grouped(chains, values) -> list[list]:
    """`values`, one for each factor, by chain."""
    values = iter(values)
    return [[next(values) for _ in chain] for chain in chains]


def _merge(base, factors, dtype):
    """``base + Σ scale · a @ b`` summed in float32 and rounded once."""
    total = materialize(base).astype(jnp.float32)
    for a, b, scale in factors:
        update = jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
        total = total + scale.astype(jnp.float32) * update
    return total.astype(dtype)


def _joined_jvp(merges, primals, tangents):
    """The derivative in the factors by way of ``x @ a``; transposed, it gives their gradients without the base's.

    A rule for tangents and not for cotangents, so that derivatives of any order and direction go through it.
    """
    x, bases, chains = primals
    dx, dbases, dchains = tangents
    parts: list[list] = [[] for _ in bases]
    if merges:
        merged = [_merge(base, chain, x.dtype) for base, chain in zip(bases, chains, strict=True)]
        ys, through = [x @ matrix for matrix in merged], lambda dx, bases, chains: [dx @ matrix for matrix in merged]
    else:
        # Made where it is needed, and not kept until then; nor are values of codes that the forward pass made.
        coded = any(isinstance(base, Weight) for base in bases)
        ys, through = _in_passes(x, bases, chains), jax.checkpoint(_through_merged, prevent_cse=coded)
    if not _zero(dx):
        for own, part in zip(parts, through(dx, bases, chains), strict=True):
            own.append(part)
    for own, base, dbase in zip(parts, bases, dbases, strict=True):
        if not all(map(_zero, jax.tree.leaves(dbase))):
            own.append(product(x, _dense_tangent(base, dbase).astype(x.dtype)))
    learned = [da for da, _, _ in _flat(dchains) if not _zero(da)]
    learned = iter(_over(x, learned) if learned else [])
    inners = iter(_over(x, [a for a, _, _ in _flat(chains)]))
    for own, chain, dchain in zip(parts, chains, dchains, strict=True):
        for (_, b, scale), (da, db, dscale) in zip(chain, dchain, strict=True):
            inner, scale = next(inners), scale.astype(x.dtype)
            narrow = [scale * next(learned)] if not _zero(da) else []
            narrow += [dscale.astype(x.dtype) * inner] if not _zero(dscale) else []
            if narrow:
                own.append(product(sum(narrow[1:], start=narrow[0]), b.astype(x.dtype)))
            if not _zero(db):
                own.append(product(scale * inner, db.astype(x.dtype)))
    return ys, [sum(own[1:], start=own[0]) if own else jnp.zeros_like(y) for own, y in zip(parts, ys, strict=True)]


def _through_merged(dx, bases, chains):
    return [dx @ _merge(base, chain, dx.dtype) for base, chain in zip(bases, chains, strict=True)]


def _dense_tangent(base, dbase):
    """Of the matrix that a base stands for; codes have no tangent, their scales may."""

    def whole(leaf, tangent):
        if not _zero(tangent):
            return tangent
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.zeros_like(leaf) if inexact else np.zeros(leaf.shape, jax.dtypes.float0)

    return jax.jvp(materialize, (base,), (jax.tree.map(whole, base, dbase),))[1]


def _zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero) or tangent.dtype == jax.dtypes.float0


_joined.defjvp(_joined_jvp, symbolic_zeros=True)
