"""How strongly an adapter's update acts: alpha over a power of its rank, for every weight."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.adapters import map_operators_with_path, per_path
from ft_jax.core.params import Params
from ft_jax.core.state import Context
from ft_jax.core.weights import shape

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Strength:
    """Ranks and strengths of one method's updates: ``scale = alpha / rank ** power`` for each weight.

    Attributes:
      name: the method's, for messages and as its key in ``hyper``.
      rank, ranks: the rank, and others by pattern over the weights' paths; the first that fits counts.
      alpha, alphas: likewise the strengths, which stay in proportion when ``hyper``'s alpha changes.
      power: 1 for LoRA's law, 1/2 for the rank-stabilised one.
    """

    name: str
    rank: int
    alpha: float
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alphas: Mapping[str, float] = dataclasses.field(default_factory=dict)
    power: float = 1.0

    def __post_init__(self):
        for number in (self.rank, *self.ranks.values()):
            if isinstance(number, bool) or not isinstance(number, int | np.integer):
                raise ValueError(f"{self.name} has rank {number!r}, which is no whole number; give one, such as 8")
        for number in (self.alpha, *self.alphas.values()):
            if isinstance(number, str | bool) or not hasattr(number, "__float__"):
                raise ValueError(f"{self.name} has alpha {number!r}, which is no number; give one, such as 16.0")
        for number in (self.rank, *self.ranks.values()):
            if number < 1:
                raise ValueError(f"{self.name} has rank {number}; give it at least 1")
        if self.alphas and self.alpha == 0:
            raise ValueError(f"{self.name} has alpha 0 and other alphas by pattern, which are kept in proportion to it")

    def rank_of(self, path: str, weight: Any, limit: bool = True) -> int:
        """The rank of the update on `weight`.

        Raises:
          ValueError: where it is above the weight's smaller side and `limit` is on.
        """
        own, (*_, inputs, outputs) = per_path(path, self.rank, self.ranks), shape(weight)
        if limit and own > min(inputs, outputs):
            raise ValueError(
                f"{self.name} has rank {own}, but {path} is {inputs} by {outputs}; use a rank of at most "
                f"{min(inputs, outputs)} or leave it out of targets"
            )
        return own

    def scale(self, path: str) -> float:
        """``alpha / rank ** power`` at `path`."""
        return per_path(path, self.alpha, self.alphas) / per_path(path, self.rank, self.ranks) ** self.power

    def shown(self, params: Params, context: Context) -> Params:
        """The whole tree with the scales that ``hyper``'s alpha gives, as a `Method.view`."""
        change = context.hyper[self.name]["alpha"] / (self.alpha or 1.0)

        def scaled(path, weight):
            own = self.scale(path) if self.alpha else per_path(path, self.rank, self.ranks) ** -self.power
            return dataclasses.replace(weight, scale=jnp.broadcast_to(change * own, jnp.shape(weight.scale)))

        return {**params, **map_operators_with_path(scaled, {"model": params["model"]}, owner=self.name)}


def uniform(key: jax.Array, shape: tuple[int, ...], fan: int) -> jax.Array:
    """``U(-1/√fan, 1/√fan)``: Kaiming's uniform draw with slope √5, torch's and peft's default."""
    return jax.random.uniform(key, shape, jnp.float32, -(fan**-0.5), fan**-0.5)
