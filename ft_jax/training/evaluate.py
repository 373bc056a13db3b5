"""Metrics of a state on evaluation sets: sums on the devices, one fetch at the end."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Outputs, Program, TrainState
from ft_jax.core.losses import default_chunk
from ft_jax.core.outputs import logits_of
from ft_jax.core.step import logits

Batch = Mapping[str, Any]
Scores = dict[str, Any]
"""Metric name to a float, or to an array ``[trials]`` where a lifted program keeps its trials apart."""


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
    """

    score: Callable[[np.ndarray, Mapping[str, np.ndarray]], float]


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


def default_metrics(batch: Batch) -> dict[str, MetricLike]:
    """What fits a batch's labels: accuracy for ``[batch]`` classes, token accuracy and perplexity for tokens."""
    labels = batch.get("labels")
    if labels is None or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        return {}
    if np.ndim(labels) == 1:
        return {"accuracy": accuracy}
    return {"token_accuracy": token_accuracy, "perplexity": Metric(negative_log_likelihood, np.exp)}


def default_predict(lifted: bool) -> Callable[[Outputs, Batch], Any]:
    """Logits for classes; for labels of tokens their scores, or logits where members of an ensemble fuse them."""

    def predict(outputs, batch):
        tokens = "labels" in batch and jnp.ndim(batch["labels"]) == 2 and outputs.hidden.ndim == 3
        return predict_tokens(outputs, batch) if tokens and not lifted else logits(outputs, batch)

    return predict


def measurer(metrics: Mapping[str, MetricLike]) -> Callable[[Program, str | None], Callable]:
    """``(program, axis) -> (state, batch) -> (sums, predictions)``, for `ft_jax.training.parallel.parallelise`.

    Sums are ``{name: (sum, count)}`` of ``loss``, the loss's terms and the metrics, over all devices of the
    mapped axis; predictions are None unless a `HostMetric` needs them.
    """
    on_device = {name: metric for name, metric in metrics.items() if not isinstance(metric, HostMetric)}
    on_host = len(on_device) < len(metrics)

    def bind(program, axis):
        trials = len(program.trials)

        def measure(state, batch):
            terms, predictions = program.evaluate(state, batch)
            weight = jnp.sum(counted(batch)) if "labels" in batch else jnp.float32(len(jax.tree.leaves(batch)[0]))
            values = {**terms, "loss": sum(terms.values(), start=jnp.zeros(program.trials))}
            sums = {name: (value * weight, weight) for name, value in values.items()}
            for name, metric in on_device.items():
                function = metric.sums if isinstance(metric, Metric) else metric
                for _ in range(trials):
                    function = jax.vmap(function, in_axes=(0, None))
                sums[name] = function(predictions, batch)
            if axis is not None:
                sums = jax.lax.psum(sums, axis)
                if on_host:
                    gather = lambda x: jax.lax.all_gather(x, axis, axis=trials, tiled=True)  # noqa: E731
                    predictions = jax.tree.map(gather, predictions)
            return sums, predictions if on_host else None

        return measure

    return bind


def score(
    measure: Callable[[TrainState, Any], tuple[Mapping, Any]],
    state: TrainState,
    batches: Iterable[Batch],
    metrics: Mapping[str, MetricLike],
    trials: tuple[int, ...] = (),
    put: Callable[[Batch], Any] = lambda batch: batch,
    shards: int = 1,
    pad: bool = True,
) -> Scores:
    """The metrics of `state` on one evaluation set.

    Args:
      measure: compiled `measurer`.
      state: to evaluate.
      batches: host batches; where they have labels, short ones are filled up with rows that don't count.
      metrics: as given to `measurer`.
      trials: the program's.
      put: host batch to devices.
      shards: parts that a batch must divide into.
      pad: fill up at all; losses that compare the examples of a batch don't allow it.

    Raises:
      ValueError: an empty set, a batch that doesn't divide over the devices and can't be filled up.
    """
    sums, predictions, kept, rows = [], [], [], None
    for batch in batches:
        count = len(jax.tree.leaves(batch)[0])
        rows = -(-max(count, rows or 0) // shards) * shards
        filled = fill(batch, rows) if pad else batch
        part, predicted = measure(state, put(filled))
        sums.append(part)
        if predicted is not None:
            predictions.append(predicted)
            kept.append(batch)
    if not sums:
        raise ValueError("an evaluation set is empty; give it at least one batch")
    sums = jax.device_get(sums)
    scores: Scores = {}
    for name in sums[0]:
        total = np.sum([np.asarray(part[name][0], np.float64) for part in sums], axis=0)
        weight = np.sum([np.asarray(part[name][1], np.float64) for part in sums], axis=0)
        mean = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
        metric = metrics.get(name)
        scores[name] = _plain(metric.finish(mean) if isinstance(metric, Metric) else mean)
    if predictions:
        scores |= _host_scores(predictions, kept, metrics, trials)
    return scores


def fill(batch: Batch, rows: int) -> Batch:
    """A labelled batch with its last row repeated up to `rows`, of weight 0; others as they are."""
    missing = rows - len(jax.tree.leaves(batch)[0])
    if missing <= 0 or "labels" not in batch:
        return batch if "labels" not in batch or "weights" in batch else {**batch, "weights": _ones(batch)}
    weights = np.asarray(batch.get("weights", _ones(batch)))
    more = jax.tree.map(lambda x: np.concatenate([x, np.repeat(np.asarray(x)[-1:], missing, axis=0)]), dict(batch))
    return {**more, "weights": np.concatenate([weights, np.zeros((missing, *weights.shape[1:]), weights.dtype)])}


def _ones(batch):
    return np.ones(np.shape(batch["labels"]), np.float32)


def _host_scores(predictions, batches, metrics, trials):
    counts = [len(jax.tree.leaves(batch)[0]) for batch in batches]
    fetched = jax.device_get(predictions)
    axis = len(trials)

    def join(*parts):
        cut = [np.take(part, range(count), axis=axis) for part, count in zip(parts, counts, strict=True)]
        return np.concatenate(cut, axis=axis)

    whole = jax.tree.map(join, *fetched)
    labels = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    if "labels" in labels and np.ndim(labels["labels"]) == 1:
        keep = np.asarray(counted(labels)) > 0
        whole = jax.tree.map(lambda x: np.compress(keep, x, axis=axis), whole)
        labels = jax.tree.map(lambda x: np.asarray(x)[keep], labels)
    scores = {}
    for name, metric in metrics.items():
        if isinstance(metric, HostMetric):
            values = [
                float(metric.score(jax.tree.map(lambda x, at=at: x[at], whole), labels)) for at in np.ndindex(*trials)
            ]
            scores[name] = _plain(np.reshape(values, trials))
    return scores


def _plain(value):
    value = np.asarray(value)
    return float(value) if value.ndim == 0 else value.astype(np.float32)


def evaluate(
    program: Program, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, MetricLike] | None = None
) -> Scores:
    """The metrics of a state on a list of host batches, on one device.

    Args:
      program: of `ft_jax.core.make_step`.
      state: to evaluate.
      batches: finite; labelled or not.
      metrics: by name; by default what fits the first batch's labels, see `default_metrics`.

    Example:
      >>> import optax
      >>> from ft_jax.core import make_step, supervised
      >>> def apply(params, batch, key):
      ...     return Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> program = make_step(supervised(apply), optax.sgd(0.1))
      >>> state = program.init({"w": jnp.eye(2)}, jax.random.key(0))
      >>> evaluate(program, state, [{"x": jnp.eye(2), "labels": jnp.array([0, 0])}])["accuracy"]
      0.5
    """
    batches = list(batches)
    metrics = default_metrics(batches[0] if batches else {}) if metrics is None else metrics
    return score(jax.jit(measurer(metrics)(program, None)), state, batches, metrics, program.trials)


def _positive(predictions):
    shifted = predictions - predictions.max(axis=-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)


def f1(average: str = "macro") -> HostMetric:
    """scikit-learn's F1 of classes."""
    from sklearn.metrics import f1_score

    return HostMetric(lambda logits, batch: f1_score(batch["labels"], logits.argmax(-1), average=average))


def roc_auc() -> HostMetric:
    """scikit-learn's area under the ROC curve; one against the rest where there are more than two classes."""
    from sklearn.metrics import roc_auc_score

    def area(logits, batch):
        p = _positive(logits)
        return roc_auc_score(batch["labels"], p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")

    return HostMetric(area)


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
