"""Controllers of a choice among candidates: pure functions of a record of results."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.params import nearest
from ft_jax.outside import printable

Record = dict[str, Any]

SPREAD = 0.5
"""The noise of a reward between 0 and 1 before any was seen: the most that it can have."""


class Controller(Protocol):
    """How candidates are chosen; rewards are better the larger, from 0 to 1 as a rule.

    Attributes:
      exploration: a number of the state: how much what is not known counts.
      tunes: the exploration follows the noise of the results.
    """

    exploration: float
    tunes: bool

    def start(self, count: int, width: int) -> Record:
        """The record of `count` candidates before any result; tasks have `width` features each."""
        ...

    def scores(
        self, record: Record, features: Float[Array, "count width"], exploration: Array, key: Array
    ) -> tuple[Float[Array, " count"], Float[Array, " count"]]:
        """``(scores, expected rewards)``; the candidate of the largest score is the choice."""
        ...

    def learn(self, record: Record, index: Array, features: Float[Array, "count width"], reward: Array) -> Record:
        """The record after a result of candidate `index`."""
        ...


def noise(record: Record) -> Array:
    """The standard deviation of results about what was expected, from `SPREAD` as one result before all others."""
    return jnp.sqrt((SPREAD**2 + record["squares"]) / (1.0 + record["surprises"]))


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Ridge regression of a candidate's reward on the features, one for each candidate, the first feature 1."""

    exploration: float = 1.0
    tunes: bool = True
    ridge: float = 1e-3

    def __post_init__(self):
        if not self.exploration >= 0 or not self.ridge > 0:
            raise ValueError(
                f"{type(self).__name__} has exploration {self.exploration:g} and ridge {self.ridge:g}; give an "
                "exploration of at least 0 and a ridge above 0"
            )

    def start(self, count: int, width: int) -> Record:
        """No result yet; `ridge` for the constant, 1 for the other features."""
        prior = jnp.diag(jnp.ones(width).at[0].set(self.ridge))
        return {
            "gram": jnp.broadcast_to(prior, (count, width, width)).astype(jnp.float32),
            "sums": jnp.zeros((count, width)),
            "pulls": jnp.zeros(count),
            "rewards": jnp.zeros(count),
            "squares": jnp.zeros(()),
            "surprises": jnp.zeros(()),
        }

    def learn(self, record: Record, index: Array, features: Array, reward: Array) -> Record:
        """The record with one more result."""
        x = features[index]
        surprise = reward - x @ jnp.linalg.solve(record["gram"][index], record["sums"][index])
        known = (record["pulls"][index] > 0).astype(jnp.float32)
        return {
            "gram": record["gram"].at[index].add(jnp.outer(x, x)),
            "sums": record["sums"].at[index].add(reward * x),
            "pulls": record["pulls"].at[index].add(1.0),
            "rewards": record["rewards"].at[index].add(reward),
            "squares": record["squares"] + known * jnp.square(surprise),
            "surprises": record["surprises"] + known,
        }

    def _estimates(self, record, features):
        """``(mean, variance per unit of noise)`` of each candidate."""
        inverse = jnp.linalg.inv(record["gram"])
        mean = jnp.einsum("kd,kde,ke->k", features, inverse, record["sums"])
        return mean, jnp.einsum("kd,kde,ke->k", features, inverse, features)


@dataclasses.dataclass(frozen=True)
class Ucb(_Linear):
    """The largest upper confidence bound: ``mean + exploration · sqrt(2 ln t · x·A⁻¹x)``, untried candidates first.

    Without task features that is UCB1 (Auer, Cesa-Bianchi and Fischer 2002, figure 1), ``x·A⁻¹x`` being one over the
    number of results; with them the bound is LinUCB's (Li et al. 2010, arXiv:1003.0146, algorithm 1), disjoint.

    Args:
      exploration: 1 is UCB1's, for rewards from 0 to 1.
      tunes: multiply it by the noise of the results over `SPREAD`, the most a reward from 0 to 1 can have: the bound
        for noise that is known (Bubeck and Cesa-Bianchi 2012, section 2.2).
      ridge: of the constant feature.

    Example:
      >>> record = Ucb().start(2, 1)
      >>> record = Ucb().learn(record, 0, jnp.ones((2, 1)), 0.9)
      >>> Ucb().scores(record, jnp.ones((2, 1)), 1.0, None)[0].tolist()[1]
      inf
    """

    def scores(self, record: Record, features: Array, exploration: Array, key: Array) -> tuple[Array, Array]:
        """The bounds and the means."""
        mean, variance = self._estimates(record, features)
        turn = jnp.maximum(jnp.sum(record["pulls"]), 1.0)
        bound = mean + exploration * jnp.sqrt(2.0 * jnp.log(turn) * variance)
        return jnp.where(record["pulls"] > 0, bound, jnp.inf), mean


@dataclasses.dataclass(frozen=True)
class Thompson(_Linear):
    """Thompson sampling: the largest draw from what each candidate's reward may be.

    ``N(mean, exploration² · x·A⁻¹x)``: the posterior of a Gaussian reward of noise `exploration` and of a prior of
    variance ``exploration² / ridge`` about 0 (Thompson 1933; with features Agrawal and Goyal 2013, arXiv:1209.3352).

    Args:
      exploration: the noise of a reward.
      tunes: multiply it by the noise of the results over `SPREAD`.
      ridge: of the constant feature.

    Example:
      >>> record = Thompson().learn(Thompson().start(1, 1), 0, jnp.ones((1, 1)), 1.25)
      >>> Thompson().scores(record, jnp.ones((1, 1)), 0.0, jax.random.key(0))[0].round(2).tolist()
      [1.0]
    """

    exploration: float = SPREAD
    ridge: float = 0.25

    def scores(self, record: Record, features: Array, exploration: Array, key: Array) -> tuple[Array, Array]:
        """The draws and the means."""
        mean, variance = self._estimates(record, features)
        return mean + exploration * jnp.sqrt(variance) * jax.random.normal(key, mean.shape), mean


@dataclasses.dataclass(frozen=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943, figure 3): the better share goes on.

    Every candidate that is left has the same number of turns, the one with fewest first; then those whose latest
    result is in the better ``1 / eta`` stay, and have `eta` times as many turns more. It reads no features and has
    nothing to explore.

    Args:
      eta: the better ``1 / eta`` stay.
      turns: of each candidate in the first round.

    Raises:
      ValueError: numbers that halve nothing.
    """

    eta: int = 2
    turns: int = 1
    exploration: float = 0.0
    tunes: bool = False

    def __post_init__(self):
        if self.eta < 2 or self.turns < 1:
            raise ValueError(f"Halving has eta {self.eta} and {self.turns} turns; give at least 2 and 1")

    def start(self, count: int, width: int) -> Record:
        """All candidates are left."""
        return {
            "left": jnp.ones(count, bool),
            "latest": jnp.zeros(count),
            "pulls": jnp.zeros(count),
            "rewards": jnp.zeros(count),
            "due": jnp.float32(self.turns),
            "round": jnp.float32(self.turns),
        }

    def scores(self, record: Record, features: Array, exploration: Array, key: Array) -> tuple[Array, Array]:
        """Fewest turns first among those left."""
        return jnp.where(record["left"], -record["pulls"], -jnp.inf), record["latest"]

    def learn(self, record: Record, index: Array, features: Array, reward: Array) -> Record:
        """The record with one more result; at the end of a round without those that were worse."""
        pulls, latest = record["pulls"].at[index].add(1.0), record["latest"].at[index].set(reward)
        over = jnp.all(jnp.where(record["left"], pulls >= record["due"], True))
        keep = jnp.maximum(jnp.sum(record["left"]) // self.eta, 1)
        order = jnp.argsort(jnp.argsort(jnp.where(record["left"], -latest, jnp.inf)))
        left = jnp.where(over, record["left"] & (order < keep), record["left"])
        long = jnp.where(over, record["round"] * self.eta, record["round"])
        due = jnp.where(over, record["due"] + long, record["due"])
        rewards = record["rewards"].at[index].add(reward)
        return {"left": left, "latest": latest, "pulls": pulls, "rewards": rewards, "due": due, "round": long}


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A differentiable mixture: every candidate trains, and gates over them descend the mixture's expected loss.

    The weights are ``softmax(gates)`` as in DARTS (Liu et al. 2019, arXiv:1806.09055), first order, of whole
    candidates. In every step each candidate's loss is taken before it trains on the batch, and
    ``gates ← gates - exploration · ∂ Σ weights · losses / ∂ gates``. An evaluation sees the mixture of the candidates'
    probabilities; the choice is the largest weight. It costs a step of every candidate, and on data that is read again
    and again the losses are those of examples already seen.

    Args:
      exploration: the rate of the gates.
    """

    exploration: float = 0.5
    tunes: bool = False

    def start(self, count: int, width: int) -> Record:
        """Equal weights."""
        return {"gates": jnp.zeros(count), "pulls": jnp.zeros(count), "rewards": jnp.zeros(count)}

    def scores(self, record: Record, features: Array, exploration: Array, key: Array) -> tuple[Array, Array]:
        """The weights."""
        weights = jax.nn.softmax(record["gates"])
        return weights, weights

    def learn(self, record: Record, index: Array, features: Array, reward: Array) -> Record:
        """The record with one more result, which moves no gate."""
        pulls, rewards = record["pulls"].at[index].add(1.0), record["rewards"].at[index].add(reward)
        return {**record, "pulls": pulls, "rewards": rewards}

    def descended(self, record: Record, losses: Float[Array, " count"], rate: Array) -> Record:
        """The record after a step in which the candidates had these losses."""
        expected = lambda gates: jax.nn.softmax(gates) @ losses  # noqa: E731
        return {**record, "gates": record["gates"] - rate * jax.grad(expected)(record["gates"])}


CONTROLLERS = {"ucb": Ucb(), "thompson": Thompson(), "halving": Halving(), "mixture": Mixture()}


def as_controller(value: Controller | str) -> Controller:
    """A controller by its name, or itself.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> as_controller("ucb")
      Ucb(exploration=1.0, tunes=True, ridge=0.001)
    """
    if not isinstance(value, str):
        return value
    if value not in CONTROLLERS:
        raise ValueError(f"there is no controller {printable(value)}; the nearest are {nearest(value, CONTROLLERS)}")
    return CONTROLLERS[value]
