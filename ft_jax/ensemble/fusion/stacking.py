"""Stacking: a second model learns from predictions that the first ones made on examples they had not seen."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ft_jax.ensemble.calibration.softmax import fit_softmax, log_softmax

Learner = Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""``train(rows) -> predict`` with ``predict(rows) -> predictions [rows, ...]``; rows are indices of examples."""


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Predictions, each by a model that was not trained on the example.

    Attributes:
      predictions: ``[rows, ...]``.
      trained_on: for each fold the examples that its model saw.
      fold: of each example, whose model predicted it.
    """

    predictions: np.ndarray
    trained_on: tuple[np.ndarray, ...]
    fold: np.ndarray

    def check(self) -> None:
        """Refuses predictions of examples that the predicting model was trained on.

        Raises:
          ValueError: names the first such example.
        """
        if len(self.fold) != len(self.predictions):
            raise ValueError(f"there are {len(self.predictions)} predictions and {len(self.fold)} folds; give one each")
        for index, seen in enumerate(self.trained_on):
            leaked = np.intersect1d(np.flatnonzero(self.fold == index), seen)
            if leaked.size:
                raise ValueError(
                    f"example {leaked[0]} was predicted by the model of fold {index}, which was trained on it; stack "
                    "out-of-fold predictions (out_of_fold makes them)"
                )


def out_of_fold(train: Learner, folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> OutOfFold:
    """Trains once for each fold without it and predicts it.

    Args:
      train: a learner.
      folds: ``(train, held out)`` indices, such as `ft_jax.data.folds` gives; every example held out exactly once.

    Raises:
      ValueError: folds that hold an example out twice or never, or train on what they hold out.

    Example:
      >>> labels = np.array([0.0, 1.0, 2.0, 3.0])
      >>> mean = lambda rows: lambda asked: np.full(len(asked), labels[rows].mean())
      >>> out_of_fold(mean, [(np.array([2, 3]), np.array([0, 1])), (np.array([0, 1]), np.array([2, 3]))]).predictions
      array([2.5, 2.5, 0.5, 0.5])
    """
    held = np.concatenate([np.asarray(out) for _, out in folds])
    count = len(held)
    if not np.array_equal(np.sort(held), np.arange(count)):
        raise ValueError("folds hold an example out twice or never; every example belongs to exactly one (data.folds)")
    fold = np.empty(count, int)
    for index, (_, out) in enumerate(folds):
        fold[np.asarray(out)] = index
    OutOfFold(np.empty(count), tuple(np.asarray(seen) for seen, _ in folds), fold).check()
    predictions = None
    for seen, out in folds:
        predicted = np.asarray(train(np.asarray(seen))(np.asarray(out)))
        if predictions is None:
            predictions = np.empty((count, *predicted.shape[1:]), predicted.dtype)
        predictions[np.asarray(out)] = predicted
    return OutOfFold(predictions, tuple(np.asarray(seen) for seen, _ in folds), fold)


@dataclasses.dataclass(frozen=True)
class Stack:
    """A fitted second model of classes.

    Attributes:
      kernel: ``[members · classes, classes]`` on the members' log-probabilities side by side.
      bias: ``[classes]``.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities ``[rows, classes]`` from the members' logits ``[members, rows, classes]``."""
        return log_softmax(_features(logits) @ self.kernel + self.bias)


def stack(members: Sequence[OutOfFold], labels: np.ndarray, *, l2: float = 1.0) -> Stack:
    """Fits multinomial logistic regression on the members' out-of-fold log-probabilities (Wolpert 1992).

    Minimises ``Σ_i -log p(label_i) + l2 / 2 · ‖kernel‖²``, scikit-learn's ``LogisticRegression(C=1 / l2)``.

    Args:
      members: each member's out-of-fold logits ``[rows, classes]``.
      labels: ``[rows]``.
      l2: strength of the penalty.

    Raises:
      ValueError: predictions of examples that their model was trained on, labels of one class, or shapes that disagree.

    Example:
      >>> labels = np.array([0, 1, 0, 1])
      >>> folds = [(np.array([2, 3]), np.array([0, 1])), (np.array([0, 1]), np.array([2, 3]))]
      >>> knows = out_of_fold(lambda rows: lambda asked: np.eye(2)[labels[asked]] * 4, folds)
      >>> stack([knows], labels)(knows.predictions[None]).argmax(1).tolist()
      [0, 1, 0, 1]
    """
    _check(members)
    logits = _same_shape([member.predictions for member in members], labels)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"all {len(labels)} labels are {labels[0]}; a stack needs examples of at least two classes")
    kernel, bias = fit_softmax(_features(logits), labels, logits.shape[-1], l2=l2)
    return Stack(kernel, bias)


def stack_values(members: Sequence[OutOfFold], targets: np.ndarray) -> np.ndarray:
    """Weights of the members' numbers that fit the targets best, none negative (Breiman 1996, "Stacked regressions").

    ``min_w≥0 Σ_i (target_i - Σ_k w_k prediction_ki)²``; use them with `mean_value` times their sum, or ``w @ values``.

    Args:
      members: each member's out-of-fold numbers ``[rows]``.
      targets: ``[rows]``.

    Raises:
      ValueError: predictions of examples that their model was trained on, or shapes that disagree.
    """
    from scipy.optimize import nnls

    _check(members)
    values = _same_shape([member.predictions for member in members], targets)
    return nnls(values.T.astype(np.float64), np.asarray(targets, np.float64))[0]


def _check(members: Sequence[OutOfFold]) -> None:
    """Raises ValueError on members that don't say, or saw, what they predict."""
    if not members:
        raise ValueError("a stack was given no member; give each member's out-of-fold predictions")
    for index, member in enumerate(members):
        if not isinstance(member, OutOfFold):
            raise ValueError(
                f"member {index} is {type(member).__name__}, which doesn't say what its models were trained on; give "
                "what out_of_fold makes"
            )
        member.check()


def _same_shape(predictions: Sequence[np.ndarray], labels) -> np.ndarray:
    for index, predicted in enumerate(predictions):
        if predicted.shape != predictions[0].shape or len(predicted) != len(labels):
            raise ValueError(
                f"member {index} predicts {predicted.shape}, member 0 {predictions[0].shape}, and there are "
                f"{len(labels)} labels; members of a stack answer the same examples with the same classes"
            )
    return np.stack(predictions)


def _features(logits: np.ndarray) -> np.ndarray:
    return np.concatenate(list(log_softmax(np.asarray(logits, np.float64))), axis=-1)
