"""Orthogonal fine-tuning: weights are turned, not added to."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, map_operators, per_path
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.strength import NONE


@operator("block", "terms", "owner")
class Rotated(Weight):
    """``diag(r_1, …, r_n) @ base``: the inputs, in blocks of `block`, are turned by orthogonal matrices.

    Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", arXiv:2306.07280, section 3.3.
    Each ``r`` is Cayley's transform ``(1 - q)(1 + q)⁻¹`` of a skew-symmetric ``q``, whose upper triangle is learned;
    its Neumann series (see `cayley`) has the opposite sign of ``q``, as in peft. ``epsilon`` notes the bound that the
    method keeps ``q`` in, if any; it is no part of the product.
    """

    base: Any
    skew: Float[Array, "blocks triangle"]
    block: int
    terms: int | None = None
    owner: str = ""
    epsilon: Float[Array, ""] | None = None

    def matmul(self, x, bias=None):
        pieces = x.reshape(*x.shape[:-1], -1, self.block)
        turned = jnp.einsum("...bi,bio->...bo", pieces, self.rotations(x.shape[-1]).astype(x.dtype))
        return matmul(self.base, turned.reshape(x.shape), bias)

    def materialize(self):
        base = materialize(self.base)
        inputs, outputs = base.shape
        pieces = base.reshape(-1, self.block, outputs)
        turned = jnp.einsum("bio,bow->biw", self.rotations(inputs), pieces.astype(jnp.float32))
        return turned.reshape(base.shape).astype(base.dtype)

    def rotations(self, inputs: int) -> Float[Array, "blocks block block"]:
        """One matrix for each block of the inputs; they share one where only one is learned."""
        each = cayley(skew_symmetric(self.skew, self.block), self.terms)
        return jnp.broadcast_to(each, (inputs // self.block, self.block, self.block))

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Qiu et al. 2023, arXiv:2306.07280, section 3.3",
    example=lambda problem: oft(block=4, also=("*/head/*",)),
    neutral="it replaces what learns by its rotations, so no number of it trains like the step without it",
)
def oft(
    block: int = 32,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    blocks: Mapping[str, int] = NONE,
    *,
    shared: bool = False,
    terms: int | None = 5,
    epsilon: float | None = None,
    name: str = "transfer.oft",
) -> Method:
    """Turns what each chosen projection reads by learned rotations, which keep the angles between its neurons.

    A weight ``w [inputs, outputs]`` becomes ``diag(r_1, …, r_n) @ w`` with rotations ``r [block, block]`` that start
    at one, so training starts at the pretrained function.

    Args:
      block: edge of each rotation; it divides the weights' inputs.
      targets, also: as in `ft_jax.transfer.lora`.
      blocks: other edges by pattern over the weights' paths, the first that fits counts.
      shared: one rotation serves all blocks of a weight.
      terms: of the Neumann series that stands for the inverse in Cayley's transform, 5 in peft; None for the exact
        inverse, which is orthogonal however far it turns.
      epsilon: how far each weight's rotations together may go from one (constrained OFT, equation 7), data in
        ``hyper``; None for as far as they learn to.
      name: the method's name.

    Raises:
      ValueError: a block below 2, fewer than 1 term; at init, a block that does not divide the inputs, or patterns
        that fit nothing.

    Example:
      >>> import jax
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((8, 6))}}}}
      >>> oft(block=4).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"].skew.shape
      (2, 6)
    """
    for edge in (block, *blocks.values()):
        if edge < 2:
            raise ValueError(f"{name} has block {edge}; a rotation needs at least 2 dimensions")
    if terms is not None and terms < 1:
        raise ValueError(f"{name} has {terms} terms; give at least 1, or None for the exact inverse")

    def turn(path, matrix, key):
        edge, inputs = per_path(path, block, blocks), shape(matrix)[0]
        check_divides(edge, inputs, path, name)
        count = 1 if shared else inputs // edge
        bound = None if epsilon is None else jnp.float32(epsilon)
        return Rotated(matrix, jnp.zeros((count, edge * (edge - 1) // 2), jnp.float32), edge, terms, name, bound)

    def after_step(state, event):
        return state.replace(params=constrained(state.params, state.hyper[name]["epsilon"], name))

    def view(params, context):
        def noted(weight):
            bound = jnp.broadcast_to(context.hyper[name]["epsilon"], weight.epsilon.shape)
            return dataclasses.replace(weight, epsilon=bound)

        return {**params, **map_operators(noted, {"model": params["model"]}, owner=name)}

    bounded = {} if epsilon is None else {"hyper": {"epsilon": epsilon}, "after_step": after_step, "view": view}
    return adapter(name, turn, ("skew",), targets, also, **bounded)


def constrained(params: Params, epsilon: float | Array, name: str) -> Params:
    """The tree with the skew-symmetric matrices of method `name` no longer than ``epsilon / √blocks`` each."""

    return map_operators(lambda weight: weight if weight.skew is None else shortened(weight, epsilon), params, name)


def shortened(weight: Rotated, epsilon: float | Array) -> Rotated:
    """`weight` with skew-symmetric matrices whose lengths are at most ``epsilon / √blocks``.

    Example:
      >>> weight = Rotated(jnp.ones((4, 1)), jnp.array([[3.0], [0.1]]), 2)
      >>> [round(float(number), 2) for number in shortened(weight, 1.0).skew.ravel()]
      [0.5, 0.1]
    """
    limit = epsilon / weight.skew.shape[-2] ** 0.5
    length = jnp.sqrt(2.0 * jnp.sum(weight.skew**2, axis=-1, keepdims=True))
    factor = jnp.where(length <= limit, 1.0, limit / jnp.where(length == 0, 1.0, length))
    return dataclasses.replace(weight, skew=weight.skew * factor)


def check_divides(edge: int, inputs: int, path: str, name: str) -> None:
    """Refuses blocks that leave a rest.

    Raises:
      ValueError: with the nearest edges that do divide.
    """
    if inputs % edge:
        near = sorted((abs(edge - other), other) for other in range(2, inputs + 1) if inputs % other == 0)
        raise ValueError(
            f"{name} has blocks of {edge}, but {path} reads {inputs}, which they don't divide; use "
            f"{' or '.join(str(other) for _, other in near[:2]) or 'other targets'}"
        )


def skew_symmetric(triangle: Float[Array, "... triangle"], edge: int) -> Float[Array, "... edge edge"]:
    """The matrix with `triangle` above its diagonal, row by row, and the opposite below.

    Example:
      >>> skew_symmetric(jnp.array([1.0, 2.0, 3.0]), 3).tolist()
      [[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]]
    """
    rows, columns = np.triu_indices(edge, 1)
    upper = jnp.zeros((*triangle.shape[:-1], edge, edge), triangle.dtype).at[..., rows, columns].set(triangle)
    return upper - jnp.swapaxes(upper, -1, -2)


def cayley(q: Float[Array, "... edge edge"], terms: int | None = None) -> Float[Array, "... edge edge"]:
    """Cayley's transform ``(1 - q)(1 + q)⁻¹``, or with `terms` peft's series ``1 + 2q + 2q² + … + qᵗᵉʳᵐˢ⁻¹``.

    The series is that of ``(1 + q)(1 - q)⁻¹``, its last term halved.

    Example:
      >>> r = cayley(skew_symmetric(jnp.array([0.5]), 2))
      >>> jnp.abs(jnp.round(r @ r.T, 5)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    one = jnp.eye(q.shape[-1], dtype=q.dtype)
    if terms is None:
        # x (1 + q) = 1 - q, transposed because solve has the unknown on the right; qᵀ = -q.
        return jnp.swapaxes(jnp.linalg.solve(one - q, jnp.broadcast_to(one + q, q.shape)), -1, -2)
    if terms == 1:
        return jnp.broadcast_to(one, q.shape)
    if terms == 2:
        return one + 2.0 * q
    total, power = one + 2.0 * q + 2.0 * (q @ q), q @ q
    for _ in range(3, terms - 1):
        power = power @ q
        total = total + 2.0 * power
    return total + power @ q
