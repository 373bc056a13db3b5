"""Low-rank updates with a bias of their own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import map_operators_with_path
from ft_jax.core.method import Method
from ft_jax.core.params import paths
from ft_jax.core.weights import LowRank, Weight, fold_bias, materialize, shape
from ft_jax.core.weights.operator import operator


@operator("owner", "forward", "alone")
class Shifted(Weight):
    """``base + scale · a @ b`` whose output has ``scale · shift`` added: a `LowRank` with peft's ``lora_bias``.

    Where the projection has no bias (``alone``), no matrix has this effect, so it can't be merged.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    b: Float[Array, "rank outputs"]
    shift: Float[Array, " outputs"]
    scale: Float[Array, ""]
    owner: str = ""
    forward: str = "two_pass"
    alone: bool = False

    @property
    def mergeable(self) -> bool:
        """Whether there is a bias that the shift can be added to."""
        return not self.alone

    def matmul(self, x, bias=None):
        y = self._update.matmul(x, bias)
        return y + self._added().astype(y.dtype)

    def update(self, x):
        """What is added to the base's output for `x`."""
        y = self._update.update(x)
        return y + self._added().astype(y.dtype)

    def materialize(self):
        if self.alone:
            raise ValueError(
                f"{self.owner} adds a bias to a projection that has none, so it can't be merged into its weight; keep "
                "the adapter, or train it without bias=True"
            )
        return materialize(self._update)

    def fold_bias(self, bias):
        bias = fold_bias(self.base, bias)
        return bias + self._added().astype(bias.dtype)

    @property
    def shape(self):
        return shape(self.base)

    @property
    def _update(self):
        return LowRank(self.base, self.a, self.b, self.scale, self.owner, self.forward)

    def _added(self):
        return self.scale * self.shift


def shifted(path: str, update: LowRank) -> Shifted:
    """`update` with a shift of zero.

    Raises:
      ValueError: at a table, whose rows are looked up: there is no output that a bias could be added to.
    """
    if not path.endswith("/kernel"):
        raise ValueError(
            f"{update.owner} has bias=True and {path} is a table, which has none; leave it out of targets, or bias=True"
        )
    shift = jnp.zeros(shape(update)[1], jnp.float32)
    return Shifted(update.base, update.a, update.b, shift, update.scale, update.owner, update.forward)


def without_biases_marked(method: Method) -> Method:
    """`method` whose shifts know where the projection has no bias beside it."""

    def surgery(params, key):
        params = method.surgery(params, key)
        known = {f"{path}/" for path in paths({"model": params["model"]})}

        def marked(path, weight):
            return dataclasses.replace(weight, alone=f"{path.removesuffix('kernel')}bias/" not in known)

        return {**params, **map_operators_with_path(marked, {"model": params["model"]}, owner=method.name)}

    return dataclasses.replace(method, surgery=surgery)
