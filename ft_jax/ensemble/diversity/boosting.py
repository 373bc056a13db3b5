"""Boosting of classifiers: SAMME."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

Train = Callable[[np.ndarray], Callable[[Any], np.ndarray]]
"""``weights [rows] -> predict``, with ``predict(examples) -> classes [rows]``; None stands for those trained on."""


@dataclasses.dataclass(frozen=True)
class Boosted:
    """Members with their votes.

    Attributes:
      members: each member's ``predict``.
      votes: each member's weight.
      errors: each member's weighted error on the training examples.
      classes: how many.
    """

    members: tuple[Callable, ...]
    votes: tuple[float, ...]
    errors: tuple[float, ...]
    classes: int

    def decision(self, examples: Any) -> np.ndarray:
        """The share of the votes for each class less what the others would have at random, ``[rows, classes]``."""
        total = 0.0
        for member, vote in zip(self.members, self.votes, strict=True):
            chosen = np.eye(self.classes)[member(examples)]
            total = total + vote * np.where(chosen > 0, 1.0, -1.0 / (self.classes - 1))
        return total / sum(self.votes)

    def __call__(self, examples: Any) -> np.ndarray:
        """The class with most votes, ``[rows]``."""
        return self.decision(examples).argmax(axis=1)


def samme(train: Train, labels: np.ndarray, rounds: int, *, rate: float = 1.0) -> Boosted:
    """Trains members one after another, each on what the earlier ones got wrong (Zhu et al. 2009, algorithm 2).

    With weighted error ``err`` a member has the vote ``rate · (log((1 - err) / err) + log(classes - 1))``, and the
    weights of the examples that it gets wrong grow by ``exp(vote)``. It ends early at a member without an error, and at
    one no better than chance, which is left out. As scikit-learn's ``AdaBoostClassifier``.

    Args:
      train: trains a member with weights of the examples that sum to 1, such as by ``fit`` with a batch's ``weights``.
      labels: ``[rows]`` classes from 0.
      rounds: members at most.
      rate: the learning rate.

    Raises:
      ValueError: fewer than one round, labels of one class, or a first member no better than chance.

    Example:
      >>> labels = np.array([0, 0, 1, 1])
      >>> boosted = samme(lambda weights: lambda x: labels if x is None else np.asarray(x), labels, 3)
      >>> len(boosted.members), boosted(np.array([1, 0])).tolist()
      (1, [1, 0])
    """
    labels = np.asarray(labels)
    classes = int(labels.max()) + 1 if len(labels) else 0
    if rounds < 1 or classes < 2:
        raise ValueError(
            f"boosting {rounds} rounds over {classes} classes does nothing; give at least 1 and at least 2"
        )
    weights = np.full(len(labels), 1.0 / len(labels))
    members, votes, errors = [], [], []
    for round_ in range(rounds):
        member = train(weights)
        wrong = np.asarray(member(None)) != labels
        error = float(np.average(wrong, weights=weights))
        if error <= 0:
            return Boosted((*members, member), (*votes, 1.0), (*errors, 0.0), classes)
        if error >= 1 - 1 / classes:
            if not members:
                raise ValueError(
                    f"the first member's error {error:.3f} is no better than chance over {classes} classes; boosting "
                    "needs members that learn something"
                )
            break
        vote = rate * (np.log((1 - error) / error) + np.log(classes - 1))
        members, votes, errors = [*members, member], [*votes, float(vote)], [*errors, error]
        if round_ < rounds - 1:
            weights = weights * np.exp(vote * wrong)
            weights = weights / weights.sum()
    return Boosted(tuple(members), tuple(votes), tuple(errors), classes)
