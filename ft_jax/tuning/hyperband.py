"""Hyperband's brackets and the rungs of successive halving: which trial gets how much training."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Rung:
    """A place in a bracket where trials are compared.

    Attributes:
      trials: how many reach it.
      resource: training each has had when it is compared there.
    """

    trials: int
    resource: int


def rungs(least: int, most: int, eta: int = 3) -> tuple[int, ...]:
    """The resources at which successive halving compares trials: ``least · eta^k``, and `most` at the end.

    Example:
      >>> rungs(1, 81)
      (1, 3, 9, 27, 81)
      >>> rungs(10, 100, eta=4)
      (10, 40, 100)

    Raises:
      ValueError: a range or an eta that can't be.
    """
    if not 1 <= least <= most or eta < 2:
        raise ValueError(f"rungs from {least} to {most} by {eta} can't be; give 1 ≤ least ≤ most and eta of at least 2")
    found = [least]
    while found[-1] * eta < most:
        found.append(found[-1] * eta)
    return tuple(found) if found[-1] == most else (*found, most)


def brackets(resource: int, eta: int = 3, table: bool = False) -> tuple[tuple[Rung, ...], ...]:
    """Hyperband's brackets, from the boldest (most trials, least training) to plain search.

    Li et al. 2018, "Hyperband", arXiv:1603.06560, algorithm 1, with ``s_max = ⌊log_eta(resource)⌋`` and
    ``B = (s_max + 1) · resource``::

        n = ⌈(s_max + 1) / (s + 1) · eta^s⌉      r = resource · eta^-s      for s = s_max, ..., 0
        rung i compares ⌊n · eta^-i⌋ trials of r · eta^i each

    The paper's own table 1 (resource 81, eta 3) prints other numbers than its formula for the brackets between:
    27, 9 and 6 trials where the formula gives 34, 15 and 8. ``table=True`` gives what the table follows,
    ``n = ⌊(s_max + 1) / (s + 1)⌋ · eta^s``. The default is the formula.

    Args:
      resource: the most training of one trial, in any unit.
      eta: of how many trials one goes on.
      table: the printed table's count of trials in place of the formula's.

    Raises:
      ValueError: a resource below 1 or an eta below 2.

    Example:
      >>> [[(rung.trials, rung.resource) for rung in bracket] for bracket in brackets(9)]
      [[(9, 1), (3, 3), (1, 9)], [(5, 3), (1, 9)], [(3, 9)]]
      >>> [bracket[0].trials for bracket in brackets(81)]
      [81, 34, 15, 8, 5]
      >>> [bracket[0].trials for bracket in brackets(81, table=True)]
      [81, 27, 9, 6, 5]
    """
    if resource < 1 or eta < 2:
        raise ValueError(
            f"brackets of {resource} by {eta} can't be; give a resource of at least 1 and eta of at least 2"
        )
    top = 0
    while eta ** (top + 1) <= resource:
        top += 1
    found = []
    for s in range(top, -1, -1):
        trials = (top + 1) // (s + 1) * eta**s if table else math.ceil((top + 1) * eta**s / (s + 1))
        found.append(tuple(Rung(trials // eta**i, resource * eta**i // eta**s) for i in range(s + 1)))
    return tuple(found)


def promoted(scores: Sequence[float], taken: Sequence[int], eta: int = 3) -> list[int]:
    """The trials that ASHA lets go on from a rung, best first: of the best ``⌊n / eta⌋`` those not yet taken.

    Li et al. 2020, "A system for massively parallel hyperparameter tuning", arXiv:1810.05934, algorithm 2,
    ``get_job``.

    Args:
      scores: of the trials that have finished the rung, more is better; NaN is worst and never goes on.
      taken: places among them that went on before.
      eta: of how many one goes on.

    Example:
      >>> promoted([0.1, 0.5, 0.3, 0.9, 0.2, 0.4], taken=[3])
      [1]
    """
    order = sorted(
        (place for place, score in enumerate(scores) if not math.isnan(score)),
        key=lambda place: (-scores[place], place),
    )
    return [place for place in order[: len(scores) // eta] if place not in set(taken)]
