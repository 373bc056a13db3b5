"""Low-rank updates whose ranks are allocated while they learn."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, map_operators, map_operators_with_path, per_path
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.dropout import check_rate, with_dropout
from ft_jax.transfer.strength import NONE

LEARNED = ("a", "values", "b")
"""The fields that learn."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How many triplets are kept when: all for a while, then ever fewer, then as many as are meant to stay.

    Attributes:
      steps: of the whole run; by their end the budget is what is meant to stay.
      warmup: so many first steps keep everything.
      final: so many last steps train what is left.
      every: steps between two allocations.
      target: the mean rank that is meant to stay.
    """

    steps: int
    warmup: int = 0
    final: int = 0
    every: int = 1
    target: float = 8

    def budget(self, step, begin, end) -> Float[Array, ""]:
        """Triplets kept in all after so many steps, between `begin` at first and `end` at last.

        Zhang et al. 2023, arXiv:2303.10512, equation 12:
        ``end + (begin - end) · (1 - (step - warmup) / (steps - final - warmup))³``, rounded down.

        Example:
          >>> [int(Schedule(10, warmup=2, final=2).budget(step, 12, 4)) for step in (2, 3, 5, 8, 9)]
          [12, 8, 5, 4, 4]
        """
        left = 1.0 - (step - self.warmup) / (self.steps - self.final - self.warmup)
        return jnp.floor(end + (begin - end) * jnp.clip(left, 0.0, 1.0) ** 3)

    def allocates(self, step):
        """Whether triplets are chosen after so many steps."""
        inside = (step > self.warmup) & (step < self.steps - self.final)
        return (inside & (step % self.every == 0)) | (step == self.steps - self.final)


@operator("schedule", "owner")
class Singular(Weight):
    """``base + scale · a @ diag(values) @ b``: a sum of triplets, each a left vector, a singular value, a right vector.

    Zhang et al. 2023, "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv:2303.10512,
    equation 3, transposed to ``[inputs, outputs]``. A triplet whose value is zero is pruned.
    """

    base: Any
    a: Float[Array, "inputs rank"]
    values: Float[Array, " rank"]
    b: Float[Array, "rank outputs"]
    scale: Float[Array, ""]
    schedule: Schedule = Schedule(1)
    owner: str = ""

    def matmul(self, x, bias=None):
        return matmul(self.base, x, bias) + self.update(x)

    def update(self, x):
        """What is added to the base's output."""
        return ((x @ self.a.astype(x.dtype)) * (self.scale * self.values).astype(x.dtype)) @ self.b.astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        return base + ((self.a * (self.scale * self.values)) @ self.b).astype(base.dtype)

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Zhang et al. 2023, arXiv:2303.10512, equations 3, 8 to 10 and 12",
    example=lambda problem: adalora(3, rank=4, target=2, also=("*/head/*",)),
    neutral="it replaces what learns by its triplets, so no value of alpha trains like the step without it",
)
def adalora(
    steps: int,
    rank: int = 12,
    target: float = 8,
    alpha: float = 32.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    ranks: Mapping[str, int] = NONE,
    *,
    warmup: int = 0,
    final: int = 0,
    every: int = 1,
    orthogonality: float = 0.5,
    sensitivity: float = 0.85,
    uncertainty: float = 0.85,
    dropout: float | None = None,
    name: str = "transfer.adalora",
) -> Method:
    """Low-rank updates that begin too wide everywhere and keep the triplets that matter, wherever they are.

    A weight ``w [inputs, outputs]`` becomes ``w + alpha / (rank + 1e-5) · a @ diag(values) @ b``; ``a`` and ``b`` are
    drawn from N(0, 0.02²) and the values are zero, so training starts at the pretrained function. After every step
    each number ``θ`` that learns has the importance ``s = Ī · Ū`` with

        I = |θ · ∂loss/∂θ|,   Ī ← β₁ Ī + (1 - β₁) I,   Ū ← β₂ Ū + (1 - β₂) |I - Ī|

    and triplet ``i`` that of its value, plus the means over its vectors ``a[:, i]`` and ``b[i]``. At an allocation the
    most important triplets of all weights together are kept, as many as the budget allows (see `Schedule`), and the
    values of the others become zero; they may come back at a later one. In the last `final` steps the choice stands.
    The loss has the term ``orthogonality · mean(‖aᵀa - 1‖, ‖b bᵀ - 1‖)`` over all weights: of the norms, as the
    authors' code and peft have it, where the paper's equation 4 squares them.

    All of it happens inside the compiled step, with arrays of one shape; there is no call that a loop could forget.
    ``metrics["transfer.adalora.kept"]`` is how many triplets there are.

    Args:
      steps: of the run; the budget is spent when so many have been made.
      rank: of each update at first.
      target: the mean rank at the end, data in ``hyper``.
      alpha: the strength, data in ``hyper``. The scale is that of the first rank all along.
      targets, also: as in `ft_jax.transfer.lora`.
      ranks: other first ranks by pattern over the weights' paths, the first that fits counts.
      warmup: so many first steps keep every triplet.
      final: so many last steps train those that are left.
      every: steps between two allocations.
      orthogonality: the weight of the term that keeps a triplet's vectors orthogonal to the others'; data in ``hyper``.
      sensitivity, uncertainty: ``β₁`` and ``β₂``, data in ``hyper``.
      dropout: the rate at which what the updates read is zeroed in training, data in ``hyper``; None for none.
      name: the method's name.

    Raises:
      ValueError: a schedule without a step between its beginning and its end, a rank below 1, a target above the rank
        or below 0, an average outside of (0, 1), a negative weight; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> changed = adalora(steps=100, rank=3, target=2).surgery(params, jax.random.key(0))
      >>> kernel = changed["model"]["mlp"]["up"]["kernel"]
      >>> kernel.a.shape, kernel.values.tolist(), kernel.b.shape
      ((4, 3), [0.0, 0.0, 0.0], (3, 6))
    """
    schedule = Schedule(steps, warmup, final, every, target)
    _check(name, schedule, rank, ranks, orthogonality, {"sensitivity": sensitivity, "uncertainty": uncertainty})

    def triplets(path, matrix, key):
        own, (inputs, outputs) = per_path(path, rank, ranks), shape(matrix)
        left, right = jax.random.split(key)
        return Singular(
            matrix,
            0.02 * jax.random.normal(left, (inputs, own)),
            jnp.zeros(own, jnp.float32),
            0.02 * jax.random.normal(right, (own, outputs)),
            jnp.float32(alpha / (rank + 1e-5)),
            schedule,
            name,
        )

    def view(params, context):
        def shown(weight):
            scale = context.hyper[name]["alpha"] / (rank + 1e-5)
            return dataclasses.replace(weight, scale=jnp.broadcast_to(scale, jnp.shape(weight.scale)))

        return {**params, **map_operators(shown, {"model": params["model"]}, owner=name)}

    def memory(params, key):
        def zeros():
            return {path: {field: jnp.zeros_like(x) for field, x in own.items()} for path, own in found.items()}

        found = learned(params, name)
        kept = {path: jnp.ones(own["values"].shape, bool) for path, own in found.items()}
        return {"sensitivity": zeros(), "uncertainty": zeros(), "kept": kept}

    def loss(inner):
        def regularised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            gaps = [
                gap(product)
                for own in learned(params, name).values()
                for product in (
                    jnp.einsum("...ir,...is->...rs", own["a"], own["a"]),
                    jnp.einsum("...ro,...so->...rs", own["b"], own["b"]),
                )
            ]
            mean = jnp.concatenate([jnp.ravel(one) for one in gaps]).mean()
            return {**terms, name: context.hyper[name]["orthogonality"] * mean}, outputs

        return regularised

    def after_step(state, event):
        numbers, remembered = state.hyper[name], state.memory[name]
        params, gradients = learned(state.params, name), learned(event.gradients, name)
        told = importance(params, gradients, remembered, numbers["sensitivity"], numbers["uncertainty"])
        # Once the choice stands, peft's averages stand still too.
        told = jax.tree.map(lambda new, old: jnp.where(state.step < steps - final, new, old), told, {
            field: remembered[field] for field in told
        })  # fmt: skip
        scores = {path: score(told["sensitivity"][path], told["uncertainty"][path]) for path in params}
        begin = sum(one.size for one in scores.values())
        end = numbers["target"] * _weights(scores)
        budget = schedule.budget(state.step, begin, end)
        chosen = keep(scores, (begin - budget).astype(jnp.int32))
        due = schedule.allocates(state.step)
        kept = {path: jnp.where(due, chosen[path], remembered["kept"][path]) for path in chosen}
        pruning = due | (state.step > steps - final)

        def pruned(path, weight):
            values = jnp.where(pruning & ~kept[path], 0.0, weight.values).astype(weight.values.dtype)
            return dataclasses.replace(weight, values=values)

        changed = map_operators_with_path(pruned, state.params, owner=name)
        return state.replace(params=changed).remember(name, {**told, "kept": kept})

    def report(state):
        kept = state.memory[name]["kept"].values()
        return {f"{name}.kept": sum(one.sum(dtype=jnp.int32) for one in kept)}

    numbers = {
        "alpha": alpha, "target": target, "orthogonality": orthogonality,
        "sensitivity": sensitivity, "uncertainty": uncertainty, **check_rate(dropout, name),
    }  # fmt: skip
    return adapter(
        name, triplets, LEARNED, targets, also,
        hyper=numbers, view=with_dropout(view, dropout, name), memory=memory, loss=loss, after_step=after_step,
        report=report,
    )  # fmt: skip


def learned(tree: Params, name: str) -> dict[str, dict[str, Array]]:
    """The arrays ``a``, ``values``, ``b`` of each of a method's weights, by path; of gradients and updates too."""
    found: dict[str, dict[str, Array]] = {}

    def visit(path, weight):
        found[path] = {field: getattr(weight, field) for field in LEARNED}
        return weight

    map_operators_with_path(visit, tree, owner=name)
    return found


def importance(params, gradients, averages, sensitivity, uncertainty) -> dict[str, Any]:
    """The averages ``Ī`` and ``Ū`` of every number after another step, equations 9 and 10."""

    def average(field, rate, new):
        return jax.tree.map(lambda old, one: rate * old + (1.0 - rate) * one, averages[field], new)

    now = jax.tree.map(lambda x, gradient: jnp.abs(x * gradient), params, gradients)
    smooth = average("sensitivity", sensitivity, now)
    spread = jax.tree.map(lambda one, mean: jnp.abs(one - mean), now, smooth)
    return {"sensitivity": smooth, "uncertainty": average("uncertainty", uncertainty, spread)}


def score(sensitivity: Mapping[str, Array], uncertainty: Mapping[str, Array]) -> Float[Array, "... rank"]:
    """The importance of a weight's triplets, equation 8: of the value, plus the means over both vectors."""
    own = {field: sensitivity[field] * uncertainty[field] for field in LEARNED}
    return own["values"] + (own["a"].mean(axis=-2) + own["b"].mean(axis=-1))


def keep(scores: Mapping[str, Array], pruned: Array) -> dict[str, Array]:
    """Which triplets stay when the `pruned` least important of all weights go; ties at the border go as well.

    Example:
      >>> {k: v.tolist() for k, v in keep({"q": jnp.array([3.0, 1.0]), "v": jnp.array([2.0])}, jnp.int32(2)).items()}
      {'q': [True, False], 'v': [False]}
    """
    everything = jnp.sort(jnp.concatenate([jnp.ravel(one) for one in scores.values()]))
    border = jnp.where(pruned > 0, everything[jnp.clip(pruned - 1, 0, everything.size - 1)], -jnp.inf)
    return {path: one > border for path, one in scores.items()}


def gap(product: Float[Array, "... rank rank"]) -> Float[Array, "..."]:
    """The Frobenius norm of ``product - 1``, whose gradient is 0 where it is 0."""
    square = jnp.sum(jnp.square(product - jnp.eye(product.shape[-1])), axis=(-2, -1))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _weights(scores) -> int:
    """How many weights there are; of layers that run in one scan, each is one."""
    return sum(one.size // one.shape[-1] if one.shape[-1] else 1 for one in scores.values())


def _check(name, schedule, rank, ranks, orthogonality, averages) -> None:
    for field in ("steps", "warmup", "final", "every"):
        number, least = getattr(schedule, field), int(field in ("steps", "every"))
        if isinstance(number, bool) or number != int(number) or number < least:
            raise ValueError(f"{name} has {field} {number!r}; give it a whole number, at least {least}")
    if schedule.warmup >= schedule.steps - schedule.final:
        raise ValueError(
            f"{name} has {schedule.steps} steps, {schedule.warmup} of warmup and {schedule.final} final ones, which "
            "leaves none to allocate in; give it more steps, or fewer of the others"
        )
    # A weight of a file may have lost all its triplets.
    for number, least in ((rank, 1), *((own, 0) for own in ranks.values())):
        if isinstance(number, bool) or number != int(number) or number < least:
            raise ValueError(f"{name} has rank {number!r}; give it a whole number, at least {least}")
    if not 0 <= schedule.target <= rank:
        raise ValueError(
            f"{name} has a mean rank of {schedule.target} as its target and begins at {rank}; give 0 to {rank}"
        )
    if orthogonality < 0:
        raise ValueError(f"{name} has orthogonality {orthogonality}; give it at least 0")
    for field, rate in averages.items():
        if not 0.0 < rate < 1.0:
            raise ValueError(f"{name} has {field} {rate}; give a rate between 0 and 1, such as 0.85")
