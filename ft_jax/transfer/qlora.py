"""Quantised bases: QLoRA is any adapter over them, LoftQ an adapter that begins by making up for the rounding."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from ft_jax.core import weights
from ft_jax.core.adapters import Targets, adapt, as_targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import never
from ft_jax.core.weights import Quantized, materialize
from ft_jax.core.weights.quantized import FORMATS
from ft_jax.transfer.lora import low_rank
from ft_jax.transfer.nesting import innermost
from ft_jax.transfer.pissa import principal
from ft_jax.transfer.strength import NONE, Strength

PROBES = ("model/layers/0/attention/query/kernel", "model/layers/0/mlp/up/kernel")
"""Weights that stand for a model's when methods are composed, before there is one."""


@register(
    "transfer",
    paper="Dettmers et al. 2023, arXiv:2305.14314, section 3",
    example=lambda problem: quantize(block=16),
    neutral="rounding the base has no strength to set to zero",
    pretrained=False,
)
def quantize(
    format: str = "nf4",
    targets: str | Iterable[str] | Targets = "all-linear",
    block: int = 64,
    double: bool = True,
    *,
    name: str = "transfer.quantize",
) -> Method:
    """Keeps chosen projections as 4-bit NormalFloat or 8-bit integers with a scale a block; they don't learn.

    With any adapter it is that adapter's quantised form: QLoRA is ``compose(lora(), quantize())``, QDoRA
    ``compose(dora(), quantize())``, QPiSSA ``compose(quantize(), pissa())``. It rounds the stored matrix under
    whatever stands on it; what is quantised already stays. A weight is dequantised where a product needs it, and
    again in the backward pass, so the step holds the packed base and no copy.

    Args:
      format: ``"nf4"`` or ``"int8"``.
      targets: as in `ft_jax.transfer.lora`.
      block: values per scale, even.
      double: the scales are rounded to 8 bits in groups of 256 themselves.
      name: the method's name.

    Raises:
      ValueError: an unknown format, an odd block; when composed with a method by which such weights learn; at init,
        patterns that fit nothing, or a method by which the codes learn.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((64, 64))}}}}
      >>> kernel = quantize().surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.codes.size, kernel.scales.size, str(kernel.scales.dtype)
      (2048, 64, 'uint8')
    """
    if format not in FORMATS:
        raise ValueError(f"{name} has format {format!r}; use {' or '.join(map(repr, FORMATS))}")
    if block < 2 or block % 2:
        raise ValueError(f"{name} has block {block}; give a positive even number, such as 64")
    targets = as_targets(targets)

    def surgery(params, key):
        def pack(matrix):
            return matrix if isinstance(matrix, Quantized) else weights.quantize(matrix, format, block, double)

        return adapt(params, targets, lambda path, weight, key: innermost(weight, pack), key, name)

    def refuses(parts):
        code = jax.ShapeDtypeStruct((1,), jnp.uint8)
        for part in parts:
            asked = [
                path
                for path in PROBES
                if targets.fits(path) and part.trainable and part.trainable(f"{path}/codes", code)
            ]
            if asked:
                return (
                    f"{part.name} lets {asked[0]} learn, of which {name} makes codes, which can't; use an adapter, or "
                    "other targets"
                )
        return None

    numbers = ("codes", "scales", "second", "offset")
    return Method(
        name=name,
        surgery=surgery,
        trainable=never(*(f"model/*kernel*/{number}" for number in numbers)),
        refuses=refuses,
    )


@register(
    "transfer",
    paper="Li et al. 2023, arXiv:2310.08659, algorithm 1",
    example=lambda problem: loftq(rank=2, alpha=4.0, block=16, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
    pretrained=False,
)
def loftq(
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: Sequence[str] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    format: str = "nf4",
    block: int = 64,
    double: bool = True,
    iterations: int = 5,
    dropout: float | None = None,
    forward: str = "auto",
    name: str = "transfer.loftq",
) -> Method:
    """QLoRA whose factors begin at the part of the weights that rounding lost.

    For a weight ``w``, beginning with ``a @ b = 0``, `iterations` times: ``q = quantise(w - scale · a @ b)``, then
    ``scale · a @ b`` is the best approximation of ``w - q`` of its rank. Training starts nearer to the pretrained
    function than QLoRA does, but not at it.

    Args:
      rank, alpha, targets, also, ranks, alphas, dropout, forward: as in `ft_jax.transfer.lora`.
      format, block, double: as in `quantize`.
      iterations: rounds of rounding and decomposing; 5 in the paper.
      name: the method's name.

    Raises:
      ValueError: fewer than one iteration, alpha 0; else as `ft_jax.transfer.lora` and `quantize`.

    Example:
      >>> w = jax.random.normal(jax.random.key(1), (16, 16))
      >>> kernel = loftq(rank=4, block=16).surgery({"model": {"up": {"kernel": w}}}, jax.random.key(0))
      >>> kernel = kernel["model"]["up"]["kernel"]
      >>> lost = lambda weight: float(jnp.linalg.norm(weight.materialize() - w))
      >>> lost(kernel) < 0.7 * lost(weights.quantize(w, "nf4", 16))
      True
    """
    if iterations < 1:
        raise ValueError(f"{name} has {iterations} iterations; give at least 1")
    if alpha == 0:
        raise ValueError(f"{name} has alpha 0, at which its factors can't make up for anything")
    rounding = quantize(format, targets, block, double, name=name)
    strength = Strength(name, rank, alpha, ranks, alphas)

    def start(path, weight, rank, scale, key):
        dense = materialize(weight).astype(jnp.float32)
        a, b = jnp.zeros((dense.shape[0], rank)), jnp.zeros((rank, dense.shape[1]))
        for _ in range(iterations):
            packed = weights.quantize(dense - scale * (a @ b), format, block, double)
            a, b = (factor * abs(scale) ** -0.5 for factor in principal(dense - packed.materialize(), rank, None, key))
            a = a if scale > 0 else -a
        return packed, a, b

    adapter = low_rank(strength, start, targets, tuple(also), dropout, forward, innermost)
    return dataclasses.replace(adapter, refuses=rounding.refuses)
