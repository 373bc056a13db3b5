"""BatchEnsemble: members that differ by a rank-one factor of every weight."""

from collections.abc import Iterable
from typing import Any

import jax
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, adapt, as_targets, owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights.operator import Weight, fold_bias, materialize, matmul, operator, shape


@operator("owner")
class RankOne(Weight):
    """``base ∘ (r sᵀ)``: the projection ``((x ∘ r) @ base + bias) ∘ s``."""

    base: Any
    r: Float[Array, " inputs"]
    s: Float[Array, " outputs"]
    owner: str = ""

    def matmul(self, x, bias=None):
        return matmul(self.base, x * self.r.astype(x.dtype), bias) * self.s.astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        return base * (self.r[:, None] * self.s).astype(base.dtype)

    def fold_bias(self, bias):
        bias = fold_bias(self.base, bias)
        return bias * self.s.astype(bias.dtype)

    @property
    def shape(self):
        return shape(self.base)


@register(
    "ensemble",
    paper="Wen, Tran and Ba 2020, arXiv:2002.06715, equation 1",
    example=lambda problem: batch_ensemble(),
    neutral="it replaces what learns by its factors, which start apart and have no strength to set to zero",
    pretrained=False,
)
def batch_ensemble(
    targets: str | Iterable[str] | Targets = "all-linear",
    spread: float = 0.1,
    also: tuple[str, ...] = ("*/head/*",),
    *,
    name: str = "ensemble.batch_ensemble",
) -> Method:
    """Learns two vectors for each projection, by whose outer product a member's weights differ from the shared ones.

    A projection ``x @ w + bias`` becomes ``((x ∘ r) @ w + bias) ∘ s`` with ``r`` and ``s`` drawn from
    ``N(1, spread²)``. Name it inside of `members`: all members' rows go through the frozen ``w`` in one product. The
    paper trains the shared weights as well; here they are the pretrained ones.

    Args:
      targets: as in `ft_jax.core.adapters.as_targets`.
      spread: of the start, structural; 0 starts every member at the pretrained function.
      also: patterns of leaves that each member learns in full besides, such as its head; () for none.
      name: the method's name.

    Raises:
      ValueError: a negative spread; at init, patterns that fit no weight.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = batch_ensemble(also=()).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.r.shape, kernel.s.shape
      ((4,), (6,))
    """
    if spread < 0:
        raise ValueError(f"{name} has spread {spread}; give a number of at least 0")

    def factors(path, weight, key):
        inputs, outputs = shape(weight)
        keys = jax.random.split(key)
        r, s = (1 + spread * jax.random.normal(k, (size,)) for k, size in zip(keys, (inputs, outputs), strict=True))
        return RankOne(base=weight, r=r, s=s, owner=name)

    def surgery(params, key):
        return adapt(params, as_targets(targets), factors, key, name)

    return Method(name=name, surgery=surgery, trainable=owned(name, ("r", "s"), also))
