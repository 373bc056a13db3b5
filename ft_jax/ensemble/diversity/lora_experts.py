"""A mixture of LoRA experts with a learned router."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, adapt, as_targets, map_operators, owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights.operator import Weight, matmul, operator, shape


@operator("top", "owner")
class Experts(Weight):
    """``x @ base + scale · Σ_e g_e(x) · (x @ a_e) @ b_e`` with ``g = softmax(x @ router)``, of the `top` largest alone.

    The experts' first factors are one product over all of them, and so are the second ones: a gate scales an expert's
    columns between the two.
    """

    base: Any
    router: Float[Array, "inputs experts"]
    a: Float[Array, "experts inputs rank"]
    b: Float[Array, "experts rank outputs"]
    scale: Float[Array, ""]
    top: int
    owner: str = ""

    mergeable = False

    def gates(self, x: Float[Array, "... inputs"]) -> Float[Array, "... experts"]:
        """Each expert's share for each row, float32."""
        logits = (x @ self.router.astype(x.dtype)).astype(jnp.float32)
        if self.top < logits.shape[-1]:
            least = jax.lax.top_k(logits, self.top)[0][..., -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return jax.nn.softmax(logits)

    def matmul(self, x, bias=None):
        experts, inputs, rank = self.a.shape
        first = jnp.moveaxis(self.a, 0, 1).reshape(inputs, experts * rank).astype(x.dtype)
        low = (x @ first).reshape(*x.shape[:-1], experts, rank) * self.gates(x)[..., None].astype(x.dtype)
        update = low.reshape(*x.shape[:-1], experts * rank) @ self.b.reshape(experts * rank, -1).astype(x.dtype)
        return matmul(self.base, x, bias) + (self.scale * update).astype(x.dtype)

    def materialize(self):
        raise ValueError(
            f"{self.owner} chooses experts by what it reads, so it can't be merged into one matrix; save the run"
        )

    @property
    def shape(self):
        return shape(self.base)


@register(
    "ensemble",
    paper="Dou et al. 2024, arXiv:2312.09979, equation 5; Wu et al. 2024, arXiv:2404.13628",
    example=lambda problem: lora_experts(2, rank=2, also=("*/head/*",)),
    neutral="it replaces what learns by its experts, so no value of alpha trains like the step without it",
    mergeable=False,
)
def lora_experts(
    count: int = 4,
    rank: int = 8,
    alpha: float = 16.0,
    top: int | None = None,
    targets: str | Iterable[str] | Targets = "mlp",
    also: tuple[str, ...] = (),
    *,
    name: str = "ensemble.lora_experts",
) -> Method:
    """Learns several low-rank updates of each projection and a router that mixes them for every token.

    ``x @ w`` becomes ``x @ w + alpha / rank · Σ_e g_e(x) · (x @ a_e) @ b_e`` with ``g = softmax(x @ router)``. ``a`` is
    drawn as LoRA's, ``b`` is zero, so training starts at the pretrained function; the router starts near even.

    Args:
      count: of experts.
      rank: of each.
      alpha: their strength, data in ``hyper``.
      top: experts that a token takes, the likeliest; all of them where None.
      targets: as in `ft_jax.core.adapters.as_targets`.
      also: patterns of leaves that learn in full besides.
      name: the method's name.

    Raises:
      ValueError: fewer than two experts, a rank below 1, a `top` outside 1 … count; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = lora_experts(3, rank=2).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.router.shape, kernel.a.shape, kernel.b.shape
      ((4, 3), (3, 4, 2), (3, 2, 6))
    """
    chosen = count if top is None else top
    if count < 2 or rank < 1 or not 1 <= chosen <= count:
        raise ValueError(
            f"{name} has {count} experts of rank {rank} and takes {chosen}; give at least 2, 1, and 1 to as many"
        )

    def experts(path, weight, key):
        inputs, outputs = shape(weight)
        router, first = jax.random.split(key)
        bound = inputs**-0.5
        return Experts(
            base=weight,
            router=0.01 * jax.random.normal(router, (inputs, count)),
            a=jax.random.uniform(first, (count, inputs, rank), minval=-bound, maxval=bound),
            b=jnp.zeros((count, rank, outputs)),
            scale=jnp.float32(alpha / rank),
            top=chosen,
            owner=name,
        )

    def surgery(params, key):
        return adapt(params, as_targets(targets), experts, key, name)

    def view(params, context):
        strength = context.hyper[name]["alpha"] / rank

        def shown(weight):
            return dataclasses.replace(weight, scale=strength)

        return {**params, "model": map_operators(shown, params["model"], name)}

    return Method(
        name=name,
        hyper={"alpha": alpha},
        surgery=surgery,
        trainable=owned(name, ("router", "a", "b"), also),
        view=view,
    )
