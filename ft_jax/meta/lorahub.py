"""LoraHub: adapters of other tasks, mixed for a new one from a few examples and without a gradient."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.params import Params, combine

BOUND = 1.5
"""A weight's size, at most: that of the authors' code."""

WORST = float(np.finfo(np.float32).max)
"""What a score that is not finite counts as in the search."""


@dataclasses.dataclass(frozen=True)
class Hub:
    """What a search for weights came to.

    Attributes:
      params: the parameters with the mixed adapter, as those of one adapter.
      weights: of every adapter, by name.
      value: the score with its penalty, at these weights.
      at_zero: that of no adapter at all.
      values: of every mixture that was looked at, in order.
      at: ``{name: weight} -> params``, those of any other mixture.
    """

    params: Params
    weights: Mapping[str, float]
    value: float
    at_zero: float
    values: np.ndarray
    at: Callable[[Mapping[str, float]], Params]


def lorahub(
    score: Callable[[Params], Array],
    adapters: Mapping[str, Params],
    *,
    budget: int = 40,
    penalty: float = 0.05,
    spread: float = 0.5,
    seed: int = 0,
) -> Hub:
    """Finds weights ``w`` with which adapters of other tasks, summed factor by factor, solve a new task.

    Huang et al. 2023, "LoraHub", arXiv:2307.13269, section 3: ``A = Σ w[i] · A[i]`` and ``B = Σ w[i] · B[i]``, so the
    update is ``A @ B`` and not the sum of the updates, and ``min over w of score(w) + penalty · mean |w|`` with each
    ``|w[i]| ≤ 1.5``, from w = 0 (the paper has the sum of ``|w|``, the authors' code its mean, which is taken here; the
    code also divides the examples' mean loss by their number, which is not). The authors search by nevergrad's NGOpt,
    which chooses an algorithm itself; here it is CMA-ES (Hansen and Ostermeier 2001), a generation of which is scored
    in one compiled program on the base that all share.

    Args:
      score: ``params -> scalar``, the less the better, such as the mean loss on a few examples; it is compiled.
      adapters: by name, the model's parameters with one adapter each, as `ft_jax.models.load_adapter` gives them: of
        one kind, one rank and one base. All floating leaves that differ among them are mixed, a head too.
      budget: how many mixtures are looked at, beside that of no adapter.
      penalty: of the mean size of the weights.
      spread: the search's first standard deviation.
      seed: of the search.

    Returns:
      The best mixture that was seen; that of w = 0 where none is better.

    Raises:
      ValueError: fewer than two adapters, no budget, adapters of several shapes or of no difference, or a score that
        is no finite number for any mixture.
      ImportError: without the package cmaes, which ``ft_jax[search]`` brings.

    Example:
      >>> one = {"a": jnp.array([[1.0], [0.0]]), "b": jnp.array([[1.0, 0.0]])}
      >>> other = {"a": jnp.array([[0.0], [1.0]]), "b": jnp.array([[0.0, 1.0]])}
      >>> wanted = jnp.array([[1.0, 0.0], [0.0, 0.0]])
      >>> found = lorahub(lambda p: jnp.sum((p["a"] @ p["b"] - wanted) ** 2), {"one": one, "other": other}, budget=200)
      >>> bool(abs(found.weights["one"]) > 0.9 and abs(found.weights["other"]) < 0.1)
      True
    """
    if len(adapters) < 2 or budget < 1:
        raise ValueError(f"lorahub has {len(adapters)} adapters and a budget of {budget}; give at least 2 and 1")
    try:
        from cmaes import CMA
    except ImportError as error:
        raise ImportError("lorahub searches by the package cmaes, which is missing; install ft_jax[search]") from error
    shared, own = _apart(adapters)

    @jax.jit
    def scored(weights: Float[Array, "mixtures adapters"], shared, own) -> Float[Array, " mixtures"]:
        found = jax.lax.map(lambda one: score(_mixed(one, shared, own)), weights)
        return found + penalty * jnp.mean(jnp.abs(weights), axis=1)

    def scores(weights: np.ndarray) -> np.ndarray:
        return np.asarray(scored(jnp.asarray(weights, jnp.float32), shared, own), np.float64)

    count = len(adapters)
    bounds = np.array([[-BOUND, BOUND]] * count)
    search = CMA(mean=np.zeros(count), sigma=spread, bounds=bounds, seed=seed, population_size=_size(count, budget))
    best, at_zero = np.zeros(count), float(scores(np.zeros((1, count)))[0])
    least, seen = at_zero if np.isfinite(at_zero) else np.inf, []
    while len(seen) < budget:
        asked = np.stack([search.ask() for _ in range(search.population_size)])
        found = scores(asked)
        # A mixture whose score overflows is worse than all others, and the search goes on.
        ranked = np.where(np.isfinite(found), found, WORST)
        search.tell([(one, value) for one, value in zip(asked, ranked.tolist(), strict=True)])
        seen.extend(found.tolist())
        if ranked.min() < min(least, WORST):
            best, least = asked[ranked.argmin()], float(ranked.min())
    if not np.isfinite(least):
        raise ValueError(f"the score is {found[0]:g} for every mixture of {', '.join(adapters)}; look at the examples")

    def at(weights):
        return _mixed(jnp.array([weights[name] for name in adapters], jnp.float32), shared, own)

    weights = dict(zip(adapters, best.tolist(), strict=True))
    return Hub(at(weights), weights, least, at_zero, np.array(seen), at)


def _size(count: int, budget: int) -> int:
    """Mixtures of a generation: as CMA-ES has it, ``4 + 3 ln count``, and no more than the budget (but two)."""
    return max(2, min(4 + int(3 * np.log(count)), budget))


def _apart(adapters: Mapping[str, Params]) -> tuple[Params, Params]:
    """The leaves that are the same in all, and those that are not, stacked; None in each other's place."""
    (first, *names), (tree, *others) = adapters, adapters.values()
    outline = jax.tree.map(jnp.shape, tree)
    for name, other in zip(names, others, strict=True):
        if jax.tree.map(jnp.shape, other) != outline:
            raise ValueError(
                f"adapter {name!r} has other shapes than {first!r}; give adapters of one kind, rank and base"
            )
    same = jax.tree.map(lambda leaf, *rest: all(leaf is x or np.array_equal(leaf, x) for x in rest), tree, *others)
    if all(jax.tree.leaves(same)):
        raise ValueError(f"the adapters {', '.join(adapters)} are all the same; give adapters of different tasks")
    own = jax.tree.map(lambda alike, *leaves: None if alike else jnp.stack(leaves), same, tree, *others)
    return jax.tree.map(lambda alike, leaf: leaf if alike else None, same, tree), own


def _mixed(weights: Float[Array, " adapters"], shared: Params, own: Params) -> Params:
    """The parameters of a mixture."""
    mixed = jax.tree.map(lambda x: jnp.tensordot(weights, x.astype(jnp.float32), axes=1).astype(x.dtype), own)
    return combine(mixed, shared)
