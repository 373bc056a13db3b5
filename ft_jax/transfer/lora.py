"""Low-rank adaptation."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp

from ft_jax.core.adapters import adapt, as_targets, map_operators_with_path, owned, per_path, require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import LowRank, shape


@register(
    "transfer",
    paper="Hu et al. 2021, arXiv:2106.09685, equation 3",
    kind=("surgery", "trainable"),
    example=lambda problem: lora(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def lora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = MappingProxyType({}),
    alphas: Mapping[str, float] = MappingProxyType({}),
    *,
    name: str = "transfer.lora",
) -> Method:
    """Learns a low-rank update of each chosen projection; the base stays frozen.

    A weight ``w [inputs, outputs]`` becomes ``w + alpha / rank · a @ b`` with ``a [inputs, rank]`` drawn from
    ``U(-1/√inputs, 1/√inputs)`` (Kaiming uniform with slope √5, as peft and the authors' code) and
    ``b [rank, outputs]`` zero, so training starts at the pretrained function. Over a quantised weight it is
    QLoRA. On a weight that has an adapter already it adds another one.

    Args:
      rank: the update's rank.
      alpha: its strength, data in ``hyper``: changing it compiles nothing, and adapters already trained
        are shown at the new strength.
      targets: ``"all-linear"`` (every projection but the head and the embeddings), ``"attention"``,
        ``"mlp"``, or patterns over parameter paths such as ``("*attention/query/kernel",)``.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``.
      ranks: other ranks by pattern over the weights' paths, the first that fits counts.
      alphas: other strengths by pattern; they stay in proportion when ``hyper``'s alpha changes.
      name: the method's name.

    Raises:
      ValueError: a rank below 1; at init, a rank above a weight's smaller side, or patterns that fit nothing.

    Example:
      >>> from ft_jax.core import compose, make_step, materialize, supervised
      >>> import optax
      >>> params = {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}
      >>> program = make_step(supervised(None), optax.sgd(0.1), lora(rank=2))
      >>> kernel = program.init(params, jax.random.key(0)).params["model"]["mlp"]["up"]["kernel"]
      >>> kernel.a.shape, kernel.b.shape, kernel.base is None
      ((4, 2), (2, 6), True)
    """
    for number in (rank, *ranks.values()):
        if number < 1:
            raise ValueError(f"{name} has rank {number}; give it at least 1")
    if alphas and alpha == 0:
        raise ValueError(f"{name} has alpha 0 and other alphas by pattern, which are kept in proportion to it")
    targets = as_targets(targets)
    also = (also,) if isinstance(also, str) else tuple(also)

    def strength(path):
        return per_path(path, alpha, alphas) / per_path(path, rank, ranks)

    def factor(path, weight, key):
        inputs, outputs = shape(weight)
        own = per_path(path, rank, ranks)
        if own > min(inputs, outputs):
            raise ValueError(
                f"{name} has rank {own}, but {path} is {inputs} by {outputs}; use a rank of at most "
                f"{min(inputs, outputs)} or leave it out of targets"
            )
        bound = inputs**-0.5
        return LowRank(
            base=weight,
            a=jax.random.uniform(key, (inputs, own), jnp.float32, -bound, bound),
            b=jnp.zeros((own, outputs), jnp.float32),
            scale=jnp.float32(strength(path)),
            owner=name,
        )

    def surgery(params, key):
        require(params, also, name)
        return adapt(params, targets, factor, key, name)

    def view(params, context):
        change = context.hyper[name]["alpha"] / (alpha or 1.0)

        def scaled(path, weight):
            scale = change * strength(path) if alpha else change / per_path(path, rank, ranks)
            return dataclasses.replace(weight, scale=jnp.broadcast_to(scale, jnp.shape(weight.scale)))

        return {**params, **map_operators_with_path(scaled, {"model": params["model"]}, owner=name)}

    return Method(
        name=name,
        hyper={"alpha": alpha},
        surgery=surgery,
        trainable=owned(name, ("a", "b"), also),
        view=view,
    )
