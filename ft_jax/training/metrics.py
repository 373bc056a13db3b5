"""Metrics by what labels are: classes, tokens, numbers, several classes an example."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Outputs
from ft_jax.core.losses import default_chunk
from ft_jax.core.outputs import logits_of, told_by
from ft_jax.core.params import nearest
from ft_jax.core.step import logits
from ft_jax.outside import printable
from ft_jax.training.paired import embeddings, rank_correlation, retrieved

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A mean over examples or tokens, made on the devices.

    Attributes:
      sums: ``(predictions, batch) -> (sum, count)``; rows that don't count have ``batch["weights"]`` 0.
      finish: of the mean over the whole set, such as ``exp`` for perplexity.
    """

    sums: Callable[[Any, Batch], tuple[jax.Array, jax.Array]]
    finish: Callable[[np.ndarray], Any] = lambda mean: mean


@dataclasses.dataclass(frozen=True)
class HostMetric:
    """A metric that is no mean, such as F1 or ROC-AUC, made on the host from all predictions.

    Attributes:
      score: ``(predictions, batch) -> float`` on numpy arrays of the whole set, rows that don't count left out.
      lacks: ``(labels, number of classes or None) -> what the set lacks`` for the metric to mean something, or None; a
        set is asked before a run starts.
    """

    score: Callable[[np.ndarray, Mapping[str, np.ndarray]], float]
    lacks: Callable[[np.ndarray, int | None], str | None] | None = None


MetricLike = Metric | HostMetric | Callable[[Any, Batch], tuple[jax.Array, jax.Array]]


def counted(batch: Batch) -> jax.Array:
    """How much each label counts: ``weights`` or ones, 0 where an integer label is negative."""
    labels = batch["labels"]
    weights = batch.get("weights")
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights
    return jnp.where(labels >= 0, weights, 0.0) if jnp.issubdtype(labels.dtype, jnp.integer) else weights


def accuracy(predictions, batch):
    """Share of examples whose likeliest class is the label; ``predictions [batch, classes]``."""
    weights = counted(batch)
    return jnp.sum(weights * (jnp.argmax(predictions, axis=-1) == batch["labels"])), jnp.sum(weights)


def token_accuracy(predictions, batch):
    """Share of counted tokens that are the model's first choice."""
    weights = counted(batch)
    return jnp.sum(weights * token_scores(predictions, batch)["correct"]), jnp.sum(weights)


def negative_log_likelihood(predictions, batch):
    """Mean ``-log p`` of the counted tokens, in nats."""
    weights = counted(batch)
    return -jnp.sum(weights * token_scores(predictions, batch)["log_probability"]), jnp.sum(weights)


def token_scores(predictions, batch):
    """What `predict_tokens` gives, also from whole logits ``[batch, time, vocabulary]``."""
    if isinstance(predictions, Mapping):
        return predictions
    return _scores(predictions, batch["labels"])


def predict_tokens(outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
    """``log_probability`` and ``correct`` of each label, ``[batch, time]``, without holding all logits."""
    labels, chunk = batch["labels"], default_chunk(outputs)
    if labels.shape[1] <= chunk:
        return _scores(logits_of(outputs.hidden, outputs.head, outputs.softcap), labels)

    def pieces(x):
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    def one(piece):
        hidden, labels = piece
        return _scores(logits_of(hidden, outputs.head, outputs.softcap), labels)

    scores = jax.lax.map(one, (pieces(outputs.hidden), pieces(labels)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)[:, : labels.shape[1]], scores)


def _scores(logits, labels):
    chosen = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return {
        "log_probability": chosen - jax.nn.logsumexp(logits, axis=-1),
        "correct": (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32),
    }


def default_metrics(batch: Batch, target: str | None = None) -> dict[str, MetricLike]:
    """What fits a batch's labels.

    Accuracy for classes ``[batch]``; token accuracy and perplexity for tokens ``[batch, time]``; for several classes an
    example the share of examples with all classes right, that of classes, and micro-averaged F1; for numbers the mean
    absolute error and the root of the mean squared error; for pairs the share of texts whose pair is the nearest of the
    whole set, and Spearman's rank correlation of cosines and scores.

    Args:
      batch: of the data.
      target: what the labels are to the head, see `ft_jax.training.objective.target_of`; None to go by their type.
    """
    if target in ("pairs", "scores"):
        return {"recall": HostMetric(retrieved)} if target == "pairs" else {"rank": HostMetric(rank_correlation)}
    labels = batch.get("labels")
    if labels is None:
        return {}
    labels = np.asarray(labels)
    if target != "numbers" and np.issubdtype(labels.dtype, np.integer):
        if labels.ndim == 1:
            return {"accuracy": accuracy}
        return {"token_accuracy": token_accuracy, "perplexity": Metric(negative_log_likelihood, np.exp)}
    binary = labels.ndim == 2 and labels.shape[1] > 1 and np.isin(labels, (0, 1)).all()
    if target == "several classes" or (target is None and binary):
        return {"exact_match": exact_match, "label_accuracy": label_accuracy, "f1": several_f1()}
    return {"mae": absolute_error, "rmse": Metric(squared_error, np.sqrt)}


CONFUSION = "confusion"
"""The name of a classifier's table among its metrics; a run keeps it apart from the scores."""

MOST_CLASSES = 30
"""Classes up to which there is a table."""


def confusion(classes: int) -> Metric:
    """The share of examples of each class (rows) that are taken for each class (columns), ``[classes, classes]``."""

    def sums(predictions, batch):
        weights = counted(batch)
        real = jax.nn.one_hot(batch["labels"], classes) * weights[:, None]
        return real.T @ jax.nn.one_hot(jnp.argmax(predictions, axis=-1), classes), jnp.sum(weights)

    return Metric(sums)


def of_classes(table: np.ndarray) -> dict[str, np.ndarray]:
    """Each class's accuracy and F1 from a classifier's table ``[..., classes, classes]``, see `confusion`.

    By name ``accuracy.class_0``, ``f1.class_0`` and on. The accuracy is over the class's examples, so NaN where a set
    has none; F1 is twice the share that is right over the shares that are and that are taken for the class.

    Example:
      >>> found = of_classes(np.array([[0.5, 0.1], [0.1, 0.3]]))
      >>> {name: round(float(value), 3) for name, value in found.items()}
      {'accuracy.class_0': 0.833, 'accuracy.class_1': 0.75, 'f1.class_0': 0.833, 'f1.class_1': 0.75}
    """
    table = np.asarray(table, np.float64)
    right, real, said = np.einsum("...cc->...c", table), table.sum(axis=-1), table.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {"accuracy": right / real, "f1": 2 * right / (real + said)}
    return {f"{name}.class_{at}": values[..., at] for name, values in found.items() for at in range(table.shape[-1])}


def by_class(classes: int, names: tuple[str, ...] = ("accuracy", "f1")) -> dict[str, Metric]:
    """Metrics of each class, as `of_classes` names them, for `Experiment.metrics`: logged, drawn and aimed at.

    Controllers see those of a classifier of up to `MOST_CLASSES` classes without asking.

    Args:
      classes: how many there are.
      names: of metrics.

    Raises:
      ValueError: a metric that there is not by class.
    """
    known = ("accuracy", "f1")
    for name in names:
        if name not in known:
            raise ValueError(f"there is no metric {printable(name)} by class; the nearest are {nearest(name, known)}")
    every = [f"{name}.class_{at}" for name in names for at in range(classes)]
    return {name: Metric(confusion(classes).sums, lambda table, name=name: of_classes(table)[name]) for name in every}


def preference_metrics() -> dict[str, MetricLike]:
    """Of preferences the share whose chosen answer has the larger reward, and by how much, in nats."""

    def of(what):
        def sums(predictions, batch):
            rows = next(rows for name, rows in predictions.items() if name.endswith(f"/{what}"))
            counts = jnp.isfinite(rows)
            return jnp.sum(jnp.where(counts, rows, 0.0)), jnp.sum(counts)

        return sums

    return {"preference_accuracy": of("accuracy"), "margin": of("margin")}


def _numbers(predictions, batch):
    """Predictions in the shape of the labels, and how much each example counts."""
    labels = batch["labels"]
    predictions = predictions[..., 0] if predictions.shape == (*labels.shape, 1) else predictions
    weights = counted(batch)
    return (
        predictions,
        labels,
        jnp.broadcast_to(weights.reshape(weights.shape + (1,) * (labels.ndim - weights.ndim)), labels.shape),
    )


def absolute_error(predictions, batch):
    """Mean distance of predicted numbers from the labels."""
    predictions, labels, weights = _numbers(predictions, batch)
    return jnp.sum(weights * jnp.abs(predictions - labels)), jnp.sum(weights)


def squared_error(predictions, batch):
    """Mean squared distance of predicted numbers from the labels."""
    predictions, labels, weights = _numbers(predictions, batch)
    return jnp.sum(weights * jnp.square(predictions - labels)), jnp.sum(weights)


def exact_match(predictions, batch):
    """Share of examples whose classes are all right: those of positive logits and no other."""
    right = jnp.all((predictions > 0) == (batch["labels"] > 0.5), axis=-1)
    weights = counted(batch)
    return jnp.sum(weights * right), jnp.sum(weights)


def label_accuracy(predictions, batch):
    """Share of classes, of all examples, of which it is right whether an example has them."""
    predictions, labels, weights = _numbers(predictions, batch)
    return jnp.sum(weights * ((predictions > 0) == (labels > 0.5))), jnp.sum(weights)


def default_predict(lifted: bool, target: str | None = None) -> Callable[[Outputs, Batch], Any]:
    """Logits for classes; for labels of tokens their scores, or logits where members of an ensemble fuse them.

    For pairs the embeddings of both sides, for preferences what the method tells of each, see `preference_metrics`.
    """
    if target in ("pairs", "scores"):
        return embeddings

    def predict(outputs, batch):
        if {"chosen", "rejected"} <= batch.keys():
            return told_by(outputs)
        labels = batch.get("labels")
        tokens = labels is not None and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.integer)
        tokens = tokens and outputs.hidden.ndim == 3
        return predict_tokens(outputs, batch) if tokens and not lifted else logits(outputs, batch)

    return predict


def _positive(predictions):
    shifted = predictions - predictions.max(axis=-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)


def f1(average: str = "macro") -> HostMetric:
    """scikit-learn's F1 of classes."""
    from sklearn.metrics import f1_score

    return HostMetric(lambda logits, batch: f1_score(batch["labels"], logits.argmax(-1), average=average))


def several_f1(average: str = "micro") -> HostMetric:
    """scikit-learn's F1 where an example can have several classes: those of positive logits."""
    from sklearn.metrics import f1_score

    def score(logits, batch):
        return f1_score(batch["labels"] > 0.5, logits > 0, average=average, zero_division=0)

    return HostMetric(score)


def roc_auc() -> HostMetric:
    """scikit-learn's area under the ROC curve; one against the rest where there are more than two classes.

    Where an example can have several classes, the mean over the classes. It means something only where every class has
    examples with it and without it.
    """
    from sklearn.metrics import roc_auc_score

    def area(logits, batch):
        labels = batch["labels"]
        missing = lacks(labels, logits.shape[-1])
        if missing:
            raise ValueError(f"roc_auc needs every class, and the set {missing}; take another split or metric")
        if labels.ndim == 2:
            return roc_auc_score(labels > 0.5, logits, average="macro")
        p = _positive(logits)
        return roc_auc_score(labels, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr", labels=range(p.shape[1]))

    def lacks(labels, classes):
        if labels.ndim == 2:
            shares = (labels > 0.5).mean(axis=0)
            one = next((place for place, share in enumerate(shares) if share in (0, 1)), None)
            return None if one is None else f"has {'only' if shares[one] else 'no'} examples of class {one}"
        missing = sorted(set(range(classes or int(labels.max()) + 1)) - set(labels.tolist()))
        return f"has no example of class {missing[0]}" if missing else None

    return HostMetric(area, lacks)


def calibration_error(bins: int = 15) -> HostMetric:
    """Expected calibration error: mean gap between confidence and accuracy over equal-width bins.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """

    def gap(logits, batch):
        p = _positive(logits)
        confidence, correct = p.max(axis=-1), p.argmax(axis=-1) == batch["labels"]
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        gaps = [abs(np.sum(confidence[place == b] - correct[place == b])) for b in range(bins)]
        return sum(gaps) / len(confidence)

    return HostMetric(gap)
