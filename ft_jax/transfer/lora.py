"""Low-rank adaptation, with the scale of its paper or the rank-stabilised one."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.adapters import Targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import FORWARDS, LowRank, shape
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.dropout import check_rate, with_dropout
from ft_jax.transfer.nesting import beneath
from ft_jax.transfer.shifted import shifted, without_biases_marked
from ft_jax.transfer.strength import NONE, Strength, uniform

STARTS = ("kaiming", "gaussian", "orthogonal")
"""How `lora` draws its factors, see there."""


@register(
    "transfer",
    paper="Hu et al. 2021, arXiv:2106.09685, equation 3",
    example=lambda problem: lora(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def lora(
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    bias: bool = False,
    dropout: float | None = None,
    start: str = "kaiming",
    forward: str = "auto",
    name: str = "transfer.lora",
) -> Method:
    """Learns a low-rank update of each chosen projection; the base stays frozen.

    A weight ``w [inputs, outputs]`` becomes ``w + alpha / rank · a @ b`` with ``a [inputs, rank]`` drawn from
    ``U(-1/√inputs, 1/√inputs)`` (Kaiming uniform with slope √5, as peft and the authors' code) and
    ``b [rank, outputs]`` zero, so training starts at the pretrained function. Over a quantised weight it is
    QLoRA. On a weight that has an adapter already it adds another one. The experts of a mixture,
    ``w [experts, inputs, outputs]``, each get an update of their own where a pattern names them, such as
    ``"*/experts/*/kernel"``: ``w[e] + alpha / rank · a[e] @ b[e]`` (peft's ``target_parameters``).

    Args:
      rank: the update's rank.
      alpha: its strength, data in ``hyper``: changing it compiles nothing, and adapters already trained
        are shown at the new strength.
      targets: ``"all-linear"`` (every projection but the head and the embeddings), ``"attention"``,
        ``"mlp"``, or patterns over parameter paths such as ``("*attention/query/kernel",)``.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``.
      ranks: other ranks by pattern over the weights' paths, the first that fits counts.
      alphas: other strengths by pattern; they stay in proportion when ``hyper``'s alpha changes.
      bias: whether each update adds ``scale · shift`` too, where ``shift [outputs]`` starts at zero and learns (peft's
        ``lora_bias``). Where a projection has no bias, such an update can't be merged.
      dropout: the rate at which what the update reads is zeroed in training, data in ``hyper``; None for none.
      start: ``"kaiming"`` as above; ``"gaussian"``, ``a`` from N(0, 1/rank²); ``"orthogonal"``, both factors from
        the two halves of one random orthogonal matrix, so that neither is zero and ``a @ b`` is (even ranks).
      forward: ``"auto"``, ``"two_pass"``, ``"merged_backward"`` or ``"merged"``, see `ft_jax.core.weights.LowRank`.
      name: the method's name.

    Raises:
      ValueError: an unknown start or forward, a rank below 1, a dropout outside of [0, 1); at init, a rank above a
        weight's smaller side, or patterns that fit nothing.

    Example:
      >>> from ft_jax.core import compose, make_step, materialize, supervised
      >>> import optax
      >>> params = {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}
      >>> program = make_step(supervised(None), optax.sgd(0.1), lora(rank=2))
      >>> kernel = program.init(params, jax.random.key(0)).params["model"]["mlp"]["up"]["kernel"]
      >>> kernel.a.shape, kernel.b.shape, kernel.base is None
      ((4, 2), (2, 6), True)
    """
    strength = Strength(name, rank, alpha, ranks, alphas)
    return low_rank(strength, _start(start, strength), targets, also, dropout, forward, bias=bias)


@register(
    "transfer",
    paper="Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2",
    example=lambda problem: rslora(rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def rslora(
    rank: int = 64,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    alphas: Mapping[str, float] = NONE,
    *,
    bias: bool = False,
    dropout: float | None = None,
    start: str = "kaiming",
    forward: str = "auto",
    name: str = "transfer.rslora",
) -> Method:
    """LoRA whose update is scaled by ``alpha / √rank``, so that what it learns does not shrink as the rank grows.

    A weight ``w [inputs, outputs]`` becomes ``w + alpha / √rank · a @ b``; all else is `lora`.

    Args:
      rank, alpha, targets, also, ranks, alphas, bias, dropout, start, forward, name: as in `lora`.

    Raises:
      ValueError: as `lora`.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> float(rslora(rank=4, alpha=8.0).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"].scale)
      4.0
    """
    strength = Strength(name, rank, alpha, ranks, alphas, power=0.5)
    return low_rank(strength, _start(start, strength), targets, also, dropout, forward, bias=bias)


Start = Callable[[str, jax.Array, int, float, jax.Array], tuple]
"""``(path, weight, rank, scale, key) -> (base, a, b)``: how a low-rank update begins."""


def low_rank(
    strength: Strength,
    start: Start,
    targets: str | Iterable[str] | Targets,
    also: tuple[str, ...],
    dropout: float | None,
    forward: str,
    depth: Callable = beneath,
    bias: bool = False,
) -> Method:
    """LoRA from any start: the method that `lora`, PiSSA, OLoRA, LoftQ and EVA are.

    Args:
      strength: name, ranks and scales.
      start: gives base and factors for each weight.
      targets, also, dropout, forward, bias: as in `lora`.
      depth: where it goes among other operators of a weight, see `ft_jax.transfer.nesting`.

    Raises:
      ValueError: as `lora`.
    """
    name = strength.name
    if forward not in FORWARDS:
        raise ValueError(f"{name} has forward {forward!r}; use {', '.join(map(repr, FORWARDS))}")
    numbers = {"alpha": strength.alpha, **check_rate(dropout, name)}

    def factor(path, matrix, key):
        scale = strength.scale(path)
        base, a, b = start(path, matrix, strength.rank_of(path, matrix), scale, key)
        update = LowRank(base=base, a=a, b=b, scale=jnp.float32(scale), owner=name, forward=forward)
        return shifted(path, update) if bias else update

    view, fields = with_dropout(strength.shown, dropout, name), ("a", "b", *(("shift",) if bias else ()))
    stacks = start in (kaiming, _gaussian) and dropout is None and not bias
    method = adapter(name, factor, fields, targets, also, depth=depth, stacks=stacks, hyper=numbers, view=view)
    return without_biases_marked(method) if bias else method


def kaiming(path, weight, rank, scale, key):
    """The start of LoRA's authors: `a` Kaiming uniform, `b` zero, the base as it is."""
    *experts, inputs, outputs = shape(weight)
    a = uniform(key, (*experts, inputs, rank), inputs)
    return weight, a, jnp.zeros((*experts, rank, outputs), jnp.float32)


def _gaussian(path, weight, rank, scale, key):
    *experts, inputs, outputs = shape(weight)
    a = jax.random.normal(key, (*experts, inputs, rank)) / rank
    return weight, a, jnp.zeros((*experts, rank, outputs), jnp.float32)


def _orthogonal(path, weight, rank, scale, key):
    """With the rows of an orthogonal ``q [rank, rank]``: ``a = n₁ q_even / 10``, ``b = q_oddᵀ n₂ / 10``, n normal."""
    (inputs, outputs), keys = shape(weight), jax.random.split(key, 3)
    q = jnp.linalg.qr(jax.random.normal(keys[0], (rank, rank)))[0]
    a = jax.random.normal(keys[1], (inputs, rank // 2)) @ q[0::2] / 10.0
    b = q[1::2].T @ jax.random.normal(keys[2], (rank // 2, outputs)) / 10.0
    return weight, a, b


def _start(start: str, strength: Strength) -> Start:
    if start not in STARTS:
        raise ValueError(f"{strength.name} has start {start!r}; use {', '.join(map(repr, STARTS))}")
    odd = [rank for rank in (strength.rank, *strength.ranks.values()) if rank % 2]
    if start == "orthogonal" and odd:
        raise ValueError(f"{strength.name} starts orthogonal at rank {odd[0]}, which it halves; use an even one")
    return {"kaiming": kaiming, "gaussian": _gaussian, "orthogonal": _orthogonal}[start]
