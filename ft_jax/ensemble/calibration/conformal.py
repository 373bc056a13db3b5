"""Conformal prediction sets: APS and RAPS."""

import dataclasses
import math

import numpy as np

from ft_jax.ensemble.calibration.softmax import checked, log_softmax


@dataclasses.dataclass(frozen=True)
class Sets:
    """Sets of classes that hold the true one with a chance of at least ``1 - alpha``.

    Attributes:
      threshold: classes whose score does not exceed it are in.
      alpha: the chance to miss.
      penalty, free: as `raps` has them; 0 for `aps`.
      seed: of the uniform numbers that make the chance exact; None leaves them out and makes sets larger.
    """

    threshold: float
    alpha: float
    penalty: float = 0.0
    free: int = 1
    seed: int | None = 0

    def __call__(self, logits) -> np.ndarray:
        """``[rows, classes]`` booleans; the likeliest class is in where no other is."""
        logits = np.asarray(logits, np.float64)
        scores = set_scores(logits, self.penalty, self.free, _uniform(self.seed, logits.shape[:-1], 1))
        inside = scores <= self.threshold
        likeliest = np.eye(logits.shape[-1], dtype=bool)[logits.argmax(axis=-1)]
        return np.where(inside.any(axis=-1, keepdims=True), inside, likeliest)


def aps(logits, labels, *, alpha: float = 0.1, seed: int | None = 0) -> Sets:
    """Adaptive prediction sets (Romano, Sesia and Candès 2020, arXiv:2006.02544).

    A class's score is the probability of it and of all likelier classes, less ``u`` times its own with u uniform. The
    threshold is the ``⌈(n + 1)(1 - alpha)⌉``-th smallest score of the true classes of n calibration examples. On
    exchangeable examples a set then holds the true class with a chance between ``1 - alpha`` and ``1 - alpha + 1 / (n +
    1)``. (torch-uncertainty takes the plain quantile, which for few examples covers less.)

    Args:
      logits: ``[rows, classes]`` of calibration examples that nothing was trained on.
      labels: ``[rows]``; negative ones don't count.
      alpha: the chance to miss.
      seed: see `Sets`.

    Raises:
      ValueError: an alpha outside (0, 1), or too few examples for it.

    Example:
      >>> logits = np.log(np.array([[0.7, 0.2, 0.1]] * 20))
      >>> aps(logits, np.array([0] * 14 + [1] * 4 + [2] * 2), alpha=0.2, seed=None)(logits[:1])
      array([[ True,  True, False]])
    """
    return _calibrated(logits, labels, alpha, 0.0, 1, seed, "aps")


def raps(logits, labels, *, alpha: float = 0.1, penalty: float = 0.1, free: int = 1, seed: int | None = 0) -> Sets:
    """Regularised adaptive prediction sets, smaller (Angelopoulos et al. 2021, arXiv:2009.14193).

    `aps` whose scores grow by ``penalty · max(rank - free, 0)``, with the likeliest class of rank 1: unlikely classes
    enter late. The coverage is the same.

    Args:
      logits: ``[rows, classes]`` of calibration examples.
      labels: ``[rows]``.
      alpha: the chance to miss.
      penalty: λ of the paper.
      free: ranks without a penalty, k_reg of the paper.
      seed: see `Sets`.

    Raises:
      ValueError: as `aps`, and a negative penalty.
    """
    if penalty < 0 or free < 0:
        raise ValueError(f"raps has penalty {penalty} and {free} free ranks; neither can be negative")
    return _calibrated(logits, labels, alpha, penalty, free, seed, "raps")


def set_scores(logits: np.ndarray, penalty: float, free: int, uniform: np.ndarray | float) -> np.ndarray:
    """Every class's score ``[..., classes]``."""
    probabilities = np.exp(log_softmax(logits))
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=-1)
    ranks = np.arange(1, probabilities.shape[-1] + 1)
    noise = np.asarray(uniform)[..., None] * ordered
    scores = np.cumsum(ordered, axis=-1) - noise + penalty * np.maximum(ranks - free, 0)
    return np.take_along_axis(scores, np.argsort(order, axis=-1), axis=-1)


def coverage(sets: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share of examples whose set holds the label, and the mean number of classes in a set.

    Example:
      >>> coverage(np.array([[True, False], [True, True]]), np.array([1, 1]))
      (0.5, 1.5)
    """
    inside = np.take_along_axis(sets, np.asarray(labels)[:, None], axis=-1)
    return float(inside.mean()), float(sets.sum(axis=-1).mean())


def _calibrated(logits, labels, alpha, penalty, free, seed, name) -> Sets:
    if not 0 < alpha < 1:
        raise ValueError(f"{name} has alpha {alpha}; the chance to miss lies between 0 and 1")
    logits, labels = checked(logits, labels, name)
    count = len(labels)
    place = math.ceil((count + 1) * (1 - alpha))
    if place > count:
        raise ValueError(
            f"{count} calibration examples can't hold alpha to {alpha}; give at least {math.ceil(1 / alpha) - 1}, or a "
            "larger alpha"
        )
    scores = set_scores(logits, penalty, free, _uniform(seed, labels.shape, 0))
    true = np.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]
    return Sets(float(np.sort(true)[place - 1]), alpha, penalty, free, seed)


def _uniform(seed: int | None, shape, stream: int) -> np.ndarray:
    return np.zeros(shape) if seed is None else np.random.default_rng([seed, stream]).random(shape)
