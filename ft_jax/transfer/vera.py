"""Vector-based random matrix adaptation."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, map_operators_with_path
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.dropout import check_rate, with_dropout


@operator("owner")
class SharedLowRank(Weight):
    """``base + a @ diag(inner) @ b @ diag(outer)`` with factors that all weights of a method share.

    Kopiczko et al. 2023, "VeRA: Vector-based Random Matrix Adaptation", arXiv:2310.11454, equation 2. The factors
    are put in when the model looks at the parameters, so they are stored once; until then the weight is the base's.
    """

    base: Any
    inner: Float[Array, " rank"]
    outer: Float[Array, " outputs"]
    a: Float[Array, "inputs rank"] | None = None
    b: Float[Array, "rank outputs"] | None = None
    owner: str = ""

    def matmul(self, x, bias=None):
        y = matmul(self.base, x, bias)
        return y if self.a is None else y + self.update(x)

    def update(self, x):
        """What is added to the base's output."""
        inner = (x @ self.a.astype(x.dtype)) * self.inner.astype(x.dtype)
        return (inner @ self.b.astype(x.dtype)) * self.outer.astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        if self.a is None:
            return base
        return base + ((self.a * self.inner) @ (self.b * self.outer)).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Kopiczko et al. 2023, arXiv:2310.11454, equation 2",
    example=lambda problem: vera(rank=4, also=("*/head/*",)),
    neutral="it replaces what learns by its vectors, so no number of it trains like the step without it",
)
def vera(
    rank: int = 256,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    inner: float = 0.1,
    dropout: float | None = None,
    projections: tuple[Array, Array] | None = None,
    seed: int = 0,
    name: str = "transfer.vera",
) -> Method:
    """Learns two vectors for each chosen projection, between random factors that all of them share and none learns.

    A weight ``w [inputs, outputs]`` becomes ``w + a[:inputs] @ diag(inner) @ b[:, :outputs] @ diag(outer)``: ``a`` and
    ``b`` have the largest width among the chosen weights and each weight takes a slice. They are drawn Kaiming
    uniform, ``inner [rank]`` starts at `inner` and ``outer [outputs]`` at zero, so training starts at the
    pretrained function.

    Args:
      rank: of the shared factors; it may be above the weights' widths.
      targets, also: as in `ft_jax.transfer.lora`.
      inner: where the inner vectors start.
      dropout: the rate at which what the update reads is zeroed in training, data in ``hyper``; None for none.
      projections: ``(a [inputs, rank], b [rank, outputs])`` to share in place of drawn ones.
      seed: of the drawn ones; runs and members of one seed have the same, so that their vectors can be exchanged.
      name: the method's name.

    Raises:
      ValueError: a rank below 1, a dropout outside of [0, 1); at init, patterns that fit nothing, or `projections`
        narrower than a weight.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}, "down": {"kernel": jnp.ones((6, 4))}}}}
      >>> changed = vera(rank=8).surgery(params, jax.random.key(0))
      >>> changed["transfer.vera"]["a"].shape, changed["model"]["mlp"]["up"]["kernel"].outer.shape
      ((6, 8), (6,))
    """
    if rank < 1:
        raise ValueError(f"{name} has rank {rank}; give it at least 1")
    if projections is not None and not projections[0].shape[1] == projections[1].shape[0] == rank:
        raise ValueError(
            f"{name} has rank {rank} and projections of shapes {projections[0].shape} and {projections[1].shape}; give "
            "[inputs, rank] and [rank, outputs]"
        )

    def vectors(path, matrix, key):
        outer = jnp.zeros(shape(matrix)[1], jnp.float32)
        return SharedLowRank(matrix, jnp.full(rank, inner, jnp.float32), outer, owner=name)

    def surgery(params, key):
        params, widths = method.surgery(params, key), []

        def measure(path, weight):
            widths.append((path, *shape(weight)[-2:]))
            return weight

        map_operators_with_path(measure, {"model": params["model"]}, owner=name)
        inputs, outputs = (max(width[side] for width in widths) for side in (1, 2))
        a, b = (
            _drawn(jax.random.key(seed), rank, inputs, outputs)
            if projections is None
            else map(jnp.asarray, projections)
        )
        for path, wide, tall in widths:
            if wide > a.shape[0] or tall > b.shape[1]:
                raise ValueError(
                    f"{name} shares projections of {a.shape[0]} inputs and {b.shape[1]} outputs, but {path} is {wide} "
                    f"by {tall}; give wider ones or leave it out of targets"
                )
        return {**params, name: {"a": a, "b": b}}

    def view(params, context):
        a, b = params[name]["a"], params[name]["b"]

        def filled(path, weight):
            inputs, outputs = shape(weight)[-2:]
            own = a[:inputs], b[:, :outputs]
            if STACKED in path:
                layers = weight.inner.shape[0]
                own = tuple(jnp.broadcast_to(factor, (layers, *factor.shape)) for factor in own)
            return dataclasses.replace(weight, a=own[0], b=own[1])

        return {**params, **map_operators_with_path(filled, {"model": params["model"]}, owner=name)}

    method = adapter(
        name,
        vectors,
        ("inner", "outer"),
        targets,
        also,
        hyper=check_rate(dropout, name),
        view=with_dropout(view, dropout, name),
    )
    learned = method.trainable
    return dataclasses.replace(
        method,
        surgery=surgery,
        trainable=lambda path, leaf: False if path.startswith(f"{name}/") else learned(path, leaf),
    )


def _drawn(key, rank, inputs, outputs):
    """Kaiming uniform as peft: bounds ``√(6 / inputs)`` and ``√(6 / rank)``."""
    first, second = jax.random.split(key)
    a = jax.random.uniform(first, (inputs, rank), jnp.float32, -1.0, 1.0) * (6 / inputs) ** 0.5
    return a, jax.random.uniform(second, (rank, outputs), jnp.float32, -1.0, 1.0) * (6 / rank) ** 0.5
