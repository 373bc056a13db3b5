"""Bottleneck adapters: small nonlinear modules behind projections."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter

ACTIVATIONS: dict[str, Callable] = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu, "tanh": jnp.tanh}


@operator("activation", "owner")
class Bottleneck(Weight):
    """``h + activation(h @ down + down_bias) @ up + up_bias`` with ``h`` the projection's output, bias included.

    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751, section 2.1. No matrix
    has its effect, so it can't be merged.
    """

    base: Any
    down: Float[Array, "outputs size"]
    down_bias: Float[Array, " size"]
    up: Float[Array, "size outputs"]
    up_bias: Float[Array, " outputs"]
    activation: str = "gelu"
    owner: str = ""

    mergeable = False

    def matmul(self, x, bias=None):
        h = matmul(self.base, x, bias)
        inner = h @ self.down.astype(h.dtype) + self.down_bias.astype(h.dtype)
        inner = ACTIVATIONS[self.activation](inner)
        return h + inner @ self.up.astype(h.dtype) + self.up_bias.astype(h.dtype)

    def materialize(self):
        raise ValueError(
            f"{self.owner or 'a bottleneck'} is nonlinear and can't be merged into a weight; keep it as it is, or "
            "save the run's checkpoint"
        )

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Houlsby et al. 2019, arXiv:1902.00751, section 2.1",
    example=lambda problem: houlsby(size=4, also=("*/head/*",)),
    neutral="it replaces what learns by its modules, which have no strength to set to zero",
    mergeable=False,
)
def houlsby(
    size: int = 64,
    targets: str | Iterable[str] | Targets = ("*attention/output/kernel", "*mlp/down/kernel"),
    also: tuple[str, ...] = ("*norm*",),
    *,
    activation: str = "gelu",
    deviation: float = 1e-2,
    up_deviation: float = 0.0,
    name: str = "transfer.houlsby",
) -> Method:
    """Learns a bottleneck module behind the attention and one behind the feed-forward network, and the norms.

    The output ``h`` of a projection becomes ``h + activation(h @ down + down_bias) @ up + up_bias`` before it is
    added to the residual stream; the layers' norms learn too, as in the paper. ``down [outputs, size]`` is drawn from a
    normal distribution cut off at two deviations; ``up`` is zero, so training starts at the pretrained function.

    Args:
      size: of the bottleneck.
      targets: behind which projections; as in `ft_jax.transfer.lora`.
      also: patterns of leaves that learn in full besides.
      activation: ``"gelu"``, ``"relu"``, ``"silu"`` or ``"tanh"``.
      deviation: of ``down``.
      up_deviation: of ``up``; the paper draws both with 1e-2, a start near the pretrained function.
      name: the method's name.

    Raises:
      ValueError: a size below 1, an unknown activation; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"down": {"kernel": jnp.ones((8, 6))}}}}
      >>> method = houlsby(size=2, targets="*down/kernel", also=())
      >>> method.surgery(params, jax.random.key(0))["model"]["mlp"]["down"]["kernel"].down.shape
      (6, 2)
    """
    if size < 1:
        raise ValueError(f"{name} has size {size}; give it at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{name} has activation {activation!r}; use {', '.join(map(repr, ACTIVATIONS))}")

    def behind(path, weight, key):
        outputs, (first, second) = shape(weight)[1], jax.random.split(key)
        return Bottleneck(
            base=weight,
            down=deviation * jax.random.truncated_normal(first, -2.0, 2.0, (outputs, size)),
            down_bias=jnp.zeros(size, jnp.float32),
            up=up_deviation * jax.random.truncated_normal(second, -2.0, 2.0, (size, outputs)),
            up_bias=jnp.zeros(outputs, jnp.float32),
            activation=activation,
            owner=name,
        )

    fields = ("down", "down_bias", "up", "up_bias")
    return adapter(name, behind, fields, targets, also, depth=lambda weight, on: on(weight))


@register(
    "transfer",
    paper="Pfeiffer et al. 2020, arXiv:2005.00247, appendix A",
    example=lambda problem: pfeiffer(size=4, also=("*/head/*",)),
    neutral="it replaces what learns by its modules, which have no strength to set to zero",
    mergeable=False,
)
def pfeiffer(
    size: int = 48,
    targets: str | Iterable[str] | Targets = ("*mlp/down/kernel",),
    also: tuple[str, ...] = (),
    *,
    activation: str = "relu",
    deviation: float = 2e-2,
    up_deviation: float = 0.0,
    name: str = "transfer.pfeiffer",
) -> Method:
    """Learns one bottleneck module a layer, behind the feed-forward network: half of `houlsby`'s, nearly as good.

    Args:
      size, targets, also, activation, deviation, up_deviation, name: as in `houlsby`; the norms stay.

    Raises:
      ValueError: as `houlsby`.

    Example:
      >>> pfeiffer(size=8).name
      'transfer.pfeiffer'
    """
    return houlsby(
        size, targets, also, activation=activation, deviation=deviation, up_deviation=up_deviation, name=name
    )
