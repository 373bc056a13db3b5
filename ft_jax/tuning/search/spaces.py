"""What a search chooses from: values by name, read from a few words or made in Python."""

import ast
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from ft_jax.outside import cut, escaped, printable

Plain = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`.

    Attributes:
      low, high: the ends, both possible.
      log: equally likely in the logarithm, as rates and strengths should be.
      prior: a value thought to be good; see `start`.

    Raises:
      ValueError: ends in the wrong order, ends of a logarithm that are not above 0, or a prior outside.

    Example:
      >>> Uniform(1e-5, 1e-2, log=True).grid(4)
      (1e-05, 0.0001, 0.001, 0.01)
    """

    low: float
    high: float
    log: bool = False
    prior: float | None = None

    def __post_init__(self):
        _check_range(self)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As optuna has it."""
        return optuna.distributions.FloatDistribution(float(self.low), float(self.high), log=self.log)

    def at(self, share: float) -> float:
        """The value at a share of the range, 0 at `low`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + share * (high - low)
        # Few digits where the ends have few: 1e-05 and not 1.0000000000000004e-05.
        value = float(f"{math.exp(value) if self.log else value:.12g}")
        return min(max(value, float(self.low)), float(self.high))

    def share(self, value: float) -> float:
        """Where in the range a value lies, from 0 to 1."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def grid(self, points: int) -> tuple[float, ...]:
        """So many values from end to end, evenly spaced."""
        return tuple(self.at(index / max(points - 1, 1)) for index in range(points))


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`, both possible; attributes as of `Uniform`.

    Example:
      >>> Whole(1, 4).grid(9), Whole(1, 64, log=True).at(0.5)
      ((1, 2, 3, 4), 8)
    """

    low: int
    high: int
    log: bool = False
    prior: int | None = None

    def __post_init__(self):
        _check_range(self)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As optuna has it."""
        return optuna.distributions.IntDistribution(self.low, self.high, log=self.log)

    def at(self, share: float) -> int:
        """The value at a share of the range, 0 at `low`."""
        return min(max(round(Uniform.at(self, share)), self.low), self.high)

    def share(self, value: float) -> float:
        """Where in the range a value lies, from 0 to 1."""
        return Uniform.share(self, value)

    def grid(self, points: int) -> tuple[int, ...]:
        """At most so many values from end to end, each once."""
        return tuple(dict.fromkeys(self.at(index / max(points - 1, 1)) for index in range(points)))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values without an order.

    Attributes:
      values: what can be chosen; other than numbers, words, truth values and None they are written as Python does.
      prior: the value thought to be good, or None.

    Raises:
      ValueError: no value, one twice, or a prior that is none of them.
    """

    values: tuple[Plain, ...]
    prior: Plain = None

    def __post_init__(self):
        if not self.values or len(set(map(repr, self.values))) < len(self.values):
            raise ValueError(f"a choice needs values, each once, got {printable(self.values)}; correct the list")
        if self.prior is not None and self.prior not in self.values:
            raise ValueError(f"the prior {printable(self.prior)} is none of {printable(self.values)}; take one of them")

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """As optuna has it."""
        return optuna.distributions.CategoricalDistribution(self.values)

    def at(self, share: float) -> Plain:
        """The value at a share of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def grid(self, points: int) -> tuple[Plain, ...]:
        """Every value."""
        return self.values


Axis = Uniform | Whole | Choice
Space = Mapping[str, Axis]


def _check_range(axis) -> None:
    if not (math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low < axis.high):
        raise ValueError(f"the range {axis.low:g}..{axis.high:g} has no inside; give a lower end below the upper one")
    if axis.log and axis.low <= 0:
        raise ValueError(f"the range {axis.low:g}..{axis.high:g} can't be logarithmic; start above 0 or leave log")
    if axis.prior is not None and not axis.low <= axis.prior <= axis.high:
        raise ValueError(f"the prior {axis.prior:g} is outside {axis.low:g}..{axis.high:g}; give one inside")


def parse_axis(text: str) -> Axis:
    """An axis from a few words: ``LOW..HIGH``, ``LOW..HIGH:log``, ``one,two,three``; ``~VALUE`` after it is the prior.

    Two whole ends make whole numbers.

    Raises:
      ValueError: words that are none of these, or a range that can't be.

    Example:
      >>> parse_axis("1e-5..1e-2:log~1e-3")
      Uniform(low=1e-05, high=0.01, log=True, prior=0.001)
      >>> parse_axis("4,8,16"), parse_axis("1..8")
      (Choice(values=(4, 8, 16), prior=None), Whole(low=1, high=8, log=False, prior=None))
    """
    body, tilde, prior = text.partition("~")
    guess = _literal(prior) if tilde else None
    if ".." not in body:
        # A comma inside brackets belongs to a value: (64,),(128,64) are two.
        values = [word.strip() for word in re.split(r",(?![^(\[{]*[)\]}])", body)]
        if "" in values:
            raise ValueError(f"{printable(text)} is no space; write LOW..HIGH, LOW..HIGH:log or one,two,three")
        return Choice(tuple(map(_literal, values)), guess)
    ends, _, scale = body.partition(":")
    low, high = (_literal(word) for word in ends.split("..", 1))
    if scale not in ("", "log") or any(not isinstance(x, int | float) or isinstance(x, bool) for x in (low, high)):
        raise ValueError(f"{printable(text)} is no range; write LOW..HIGH or LOW..HIGH:log with two numbers")
    if guess is not None and (isinstance(guess, bool) or not isinstance(guess, int | float)):
        raise ValueError(f"the prior of {printable(text)} is no number; write ~VALUE")
    return (Whole if isinstance(low, int) and isinstance(high, int) else Uniform)(low, high, scale == "log", guess)


def _literal(word: str) -> Plain:
    if word.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[word.lower()]
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
    return value if isinstance(value, str | int | float | bool | None) else word


def grid(space: Space, points: int = 3) -> list[dict[str, Plain]]:
    """Every combination, the last name turning fastest; ranges give `points` values each.

    Example:
      >>> grid({"rank": Choice((4, 8)), "rate": Uniform(0.1, 0.3)}, points=2)
      [{'rank': 4, 'rate': 0.1}, {'rank': 4, 'rate': 0.3}, {'rank': 8, 'rate': 0.1}, {'rank': 8, 'rate': 0.3}]
    """
    values = itertools.product(*(axis.grid(points) for axis in space.values()))
    return [dict(zip(space, combination, strict=True)) for combination in values]


def start(space: Space, count: int, seed: int, spread: float = 0.15) -> list[dict[str, Plain]]:
    """Where a search with priors begins: at the priors, then around them.

    A range with a prior is drawn from a normal of deviation `spread` (of the range, logarithms where it has them) cut
    to the range; a choice takes its prior half of the time; what has none is drawn uniformly. A search that starts so
    and goes on by its results loses only these trials to a wrong prior (Souza et al. 2021, arXiv:2006.14608; Mallik et
    al. 2023, PriorBand, arXiv:2306.12370, which draws the same normal).

    Args:
      space: axes by name.
      count: how many.
      seed: of the draws.
      spread: deviation of the normal.
    """
    draw = np.random.default_rng(seed)

    def one(axis: Axis, first: bool) -> Plain:
        if axis.prior is None:
            return axis.at(draw.random())
        if first:
            return axis.prior
        if isinstance(axis, Choice):
            return axis.prior if draw.random() < 0.5 else axis.at(draw.random())
        while True:
            share = draw.normal(axis.share(axis.prior), spread)
            if 0 <= share <= 1:
                return axis.at(share)

    return [{name: one(axis, index == 0) for name, axis in space.items()} for index in range(count)]


def encode(space: Space, values: Mapping[str, Any]) -> list[float]:
    """A combination as a point of the unit cube, a coordinate for each value of a choice."""
    found: list[float] = []
    for name, axis in space.items():
        if isinstance(axis, Choice):
            found += [float(values[name] == one) for one in axis.values]
        else:
            found.append(axis.share(values[name]))
    return found


def parse_space(words: Sequence[str]) -> dict[str, Axis]:
    """``PATH=AXIS`` words as a space, see `parse_axis`.

    Raises:
      ValueError: a word without ``=``, a path twice, or an axis that can't be; the sentence names the path.

    Example:
      >>> list(parse_space(["optimizer.learning_rate=1e-4..1e-1:log", "budget.batch_size=8,16"]))
      ['optimizer.learning_rate', 'budget.batch_size']
    """
    found: dict[str, Axis] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ValueError(
                f"{printable(word)} is no part of a space; write PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=one,two"
            )
        if path in found:
            raise ValueError(f"the space names {printable(path)} twice; name it once")
        try:
            found[path.lstrip("-")] = parse_axis(text)
        except ValueError as error:
            raise ValueError(f"{escaped(cut(path, 60))}: {error}") from None
    return found
