"""LoRA that begins at the directions in which a layer's inputs vary most."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, as_targets, weights_of
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED, Params, map_with_path
from ft_jax.core.state import Batch
from ft_jax.core.weights import Weight, is_weight, materialize, matmul, shape
from ft_jax.transfer.lora import low_rank
from ft_jax.transfer.strength import Strength
from ft_jax.transfer.unlabelled import rows_of


@register(
    "transfer",
    paper="Paischer et al. 2024, arXiv:2410.07170, sections 3.2 and 3.3",
    example=lambda problem: eva(
        problem.apply, problem.params, ({"input_ids": rows_of(problem.batch)["input_ids"]},), rank=2, alpha=4.0
    ),
    neutral="it replaces what learns by its factors, so no value of alpha trains like the step without it",
)
def eva(
    apply: Callable,
    params: Params,
    batches: Iterable[Batch],
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    rho: float = 1.0,
    whiten: bool = False,
    dropout: float | None = None,
    forward: str = "auto",
    name: str = "transfer.eva",
) -> Method:
    """LoRA whose first factor holds the leading right-singular vectors of what each projection reads.

    The inputs of every chosen projection are collected on a few batches and decomposed as they come
    (`incremental_svd`). Among all their singular vectors those that explain most of their own layer's variance are
    kept, ``rank`` a layer on average and at most ``rho · rank``; a weight that gets none has no update. ``a`` is
    made of them and ``b`` is zero, so training starts at the pretrained function. A weight's scale is
    ``alpha / rank`` with its own rank.

    Args:
      apply: ``(params, batch, key) -> Outputs``, run without rematerialisation or a scan over layers.
      params: the model's parameters.
      batches: of the task; where they have an ``attention_mask`` its padding is left out.
      rank: mean rank of a weight.
      alpha, targets, also, dropout, forward: as in `ft_jax.transfer.lora`.
      rho: 1 for the same rank everywhere; above it, by how much ranks may differ.
      whiten: divides each vector by its singular value.
      name: the method's name.

    Raises:
      ValueError: a rank below 1, a rho below 1, no batches, fewer inputs than singular vectors, patterns that fit
        nothing.

    Example:
      >>> from ft_jax.models import tiny_decoder
      >>> model = tiny_decoder(jax.random.key(0))
      >>> batch = {"input_ids": jax.random.randint(jax.random.key(1), (4, 8), 0, 32)}
      >>> method = eva(model.apply, model.params, (batch,), rank=2, targets="*query/kernel")
      >>> kernel = method.surgery({"model": model.params}, jax.random.key(2))["model"]["layers"]["0"]
      >>> kernel = kernel["attention"]["query"]["kernel"]
      >>> jnp.abs(jnp.round(kernel.a.T @ kernel.a, 4)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    if rank < 1:
        raise ValueError(f"{name} has rank {rank}; give it at least 1")
    if rho < 1:
        raise ValueError(f"{name} has rho {rho}; give 1 for equal ranks or more for ranks that differ")
    most, targets = int(rho * rank), as_targets(targets)
    found = decompositions(apply, params, batches, targets, most, name)
    explained = sorted(
        ((float(value**2 / total), path, i) for path, (_, s, total) in found.items() for i, value in enumerate(s)),
        reverse=True,
    )
    ranks = dict.fromkeys(found, 0)
    for _, path, _ in explained[: rank * len(found)]:
        ranks[path] += 1
    chosen = {path: count for path, count in ranks.items() if count}
    strength = Strength(name, rank, alpha, chosen)

    def start(path, weight, own, scale, key):
        vectors, values, _ = found[path]
        a = vectors[:, :own] / (values[:own] if whiten else 1.0)
        return weight, jnp.asarray(a, jnp.float32), jnp.zeros((own, shape(weight)[1]), jnp.float32)

    return low_rank(strength, start, tuple(chosen), also, dropout, forward)


def decompositions(
    apply: Callable, params: Params, batches: Iterable[Batch], targets: Targets, count: int, name: str
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Of each target's inputs over `batches`: ``(right-singular vectors, singular values, sum of all squares)``.

    Raises:
      ValueError: no batches, targets that fit nothing, or fewer inputs than `count`.
    """
    run = jax.jit(lambda params, batch: activations(apply, params, batch, targets, name))
    state: dict[str, tuple] = {}
    for batch in batches:
        for path, inputs in run(params, batch).items():
            if "attention_mask" in batch and batch["attention_mask"].size == inputs.shape[0]:
                inputs = inputs[np.asarray(batch["attention_mask"], bool).reshape(-1)]
            state[path] = incremental_svd(state.get(path), inputs, count)
    if not state:
        raise ValueError(f"{name} got no batches; give it at least one")
    for path, (vectors, _, _) in state.items():
        if vectors.shape[1] < count:
            raise ValueError(
                f"{name} asks for {count} singular vectors and {path} read only {vectors.shape[1]} different inputs; "
                "give more batches or a smaller rank"
            )
    return state


def incremental_svd(
    state: tuple[np.ndarray, np.ndarray, float] | None, rows: Float[Array, "rows width"], count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The decomposition of all rows so far, from that of the ones before and the new ones.

    Ross et al. 2008, "Incremental Learning for Robust Visual Tracking", section 3.3, without the mean: the singular
    vectors of ``[diag(s) vᵀ; rows]``.

    Args:
      state: ``(v [width, kept], s [kept], sum of squares)`` of the rows before, or None.
      rows: the new ones.
      count: how many vectors to keep.

    Example:
      >>> rows = np.random.default_rng(0).normal(size=(20, 4))
      >>> halves = incremental_svd(incremental_svd(None, rows[:10], 4), rows[10:], 4)
      >>> bool(np.allclose(halves[1], np.linalg.svd(rows)[1]))
      True
    """
    rows = np.asarray(rows, np.float64)
    total = float((rows**2).sum())
    if state is not None:
        rows, total = np.concatenate([state[1][:, None] * state[0].T, rows]), total + state[2]
    _, s, vt = np.linalg.svd(rows, full_matrices=False)
    return vt[:count].T, s[:count], total


@dataclasses.dataclass(frozen=True)
class _Tap(Weight):
    """A weight that notes what it is multiplied with."""

    base: Any
    path: str
    seen: dict

    def matmul(self, x, bias=None):
        self.seen.setdefault(self.path, []).append(x.reshape(-1, x.shape[-1]))
        return matmul(self.base, x, bias)

    def materialize(self):
        return materialize(self.base)

    @property
    def shape(self):
        return shape(self.base)


def activations(
    apply: Callable, params: Params, batch: Batch, targets: Targets, name: str
) -> dict[str, Float[Array, "rows inputs"]]:
    """What each target reads while the model runs on `batch`, by path.

    Raises:
      ValueError: targets that fit nothing, or that stand in layers that run in one scan.
    """
    seen: dict[str, list] = {}
    chosen = weights_of({"model": params}, targets, name)

    def tap(path, weight):
        if path not in chosen:
            return weight
        if STACKED in path:
            raise ValueError(f"{name} can't look into {path}, whose layers run in one scan; unroll them")
        return _Tap(weight, path, seen)

    apply(map_with_path(tap, {"model": params}, is_leaf=is_weight)["model"], batch, None)
    return {path: jnp.concatenate(rows) for path, rows in seen.items()}
