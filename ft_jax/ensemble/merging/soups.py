"""The greedy soup."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Soup:
    """Which models a greedy soup is made of.

    Attributes:
      kept: their indices, in the order they went in.
      alone: every model's own score.
      tried: ``(indices, score)`` of every mixture that was scored.
      score: of the soup.
    """

    kept: tuple[int, ...]
    alone: tuple[float, ...]
    tried: tuple[tuple[tuple[int, ...], float], ...]
    score: float


def greedy_soup(count: int, score: Callable[[tuple[int, ...]], float]) -> Soup:
    """Adds models to a mean as long as it does not get worse (Wortsman et al. 2022, arXiv:2203.05482, recipe 1).

    Models are tried from the best to the worst alone; one stays if the mean with it scores no less.

    Args:
      count: how many models there are.
      score: of the mean of the models with these indices on held-out data, more is better. It is asked for every
        model alone, then for each mixture.

    Raises:
      ValueError: no model, or a score that is no number.

    Example:
      >>> values = np.array([1.0, 3.0, -9.0])
      >>> soup = greedy_soup(3, lambda kept: -abs(values[list(kept)].mean() - 2.5))
      >>> soup.kept, soup.score
      ((1, 0), -0.5)
    """
    if count < 1:
        raise ValueError(f"a soup of {count} models is none; give at least 1")

    def scored(kept):
        value = float(score(kept))
        if not np.isfinite(value):
            raise ValueError(f"the score of models {kept} is {value}; a soup needs a finite number, more is better")
        return value

    alone = tuple(scored((index,)) for index in range(count))
    best, *others = sorted(range(count), key=lambda index: -alone[index])
    kept, reached, tried = (best,), alone[best], []
    for index in others:
        mixture = (*kept, index)
        value = scored(mixture)
        tried.append((mixture, value))
        if value >= reached:
            kept, reached = mixture, value
    return Soup(kept, alone, tuple(tried), reached)
