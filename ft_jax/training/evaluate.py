"""Metrics of a state on evaluation sets: sums on the devices, one fetch at the end."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Program, TrainState
from ft_jax.data.collate import of_one_length
from ft_jax.training.causes import one_sentence
from ft_jax.training.metrics import Batch, HostMetric, Metric, MetricLike, counted, default_metrics

Scores = dict[str, Any]
"""Metric name to a float, or to an array ``[trials]`` where a lifted program keeps its trials apart."""


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
            terms, predictions, weights = program.evaluate(state, batch)
            weight = jnp.sum(weights.reshape(*program.trials, -1), axis=-1)
            values = {**terms, "loss": sum(terms.values(), start=jnp.zeros(program.trials))}
            sums = {name: (value * weight, weight) for name, value in values.items()}
            for name, metric in on_device.items():
                function = _weighed(metric.sums if isinstance(metric, Metric) else metric)
                for _ in range(trials):
                    function = jax.vmap(function, in_axes=(0, None, 0))
                sums[name] = function(predictions, batch, weights)
            if axis is not None:
                sums = jax.lax.psum(sums, axis)
                if on_host:
                    gather = lambda x: jax.lax.all_gather(x, axis, axis=trials, tiled=True)  # noqa: E731
                    predictions = jax.tree.map(gather, predictions)
            return sums, predictions if on_host else None

        return measure

    return bind


def _weighed(metric):
    """A metric that counts as the program does: members of one can weigh the examples of a batch differently."""
    return lambda predictions, batch, weights: metric(predictions, {**batch, "weights": weights})


def score(
    measure: Callable[[TrainState, Any], tuple[Mapping, Any]],
    state: TrainState,
    batches: Iterable[Batch],
    metrics: Mapping[str, MetricLike],
    trials: tuple[int, ...] = (),
    put: Callable[[Batch], Any] = lambda batch: batch,
    shards: int = 1,
) -> Scores:
    """The metrics of `state` on one evaluation set.

    Args:
      measure: compiled `measurer`.
      state: to evaluate.
      batches: host batches; short ones are filled up with rows that don't count.
      metrics: as given to `measurer`.
      trials: the program's.
      put: host batch to devices.
      shards: parts that a batch must divide into.

    Raises:
      ValueError: an empty set.
    """
    sums, predictions, kept, rows = [], [], [], None
    for batch in batches:
        count = len(jax.tree.leaves(batch)[0])
        rows = -(-max(count, rows or 0) // shards) * shards
        part, predicted = measure(state, put(fill(batch, rows)))
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
    """A batch with its last row repeated up to `rows`, of weight 0 in every part that has rows of its own.

    All batches of a set get weights, so that the filled ones are compiled like the others.

    Example:
      >>> filled = fill({"chosen": {"x": np.zeros((1, 2))}, "rejected": {"x": np.ones((1, 2))}}, 2)
      >>> filled["chosen"]["weights"].tolist(), filled["rejected"]["x"].shape
      ([1.0, 0.0], (2, 2))
    """
    parts = {name: fill(x, rows) for name, x in batch.items() if isinstance(x, Mapping)}
    own = {name: np.asarray(x) for name, x in batch.items() if not isinstance(x, Mapping)}
    if not own:
        return parts
    count = len(next(iter(own.values())))
    own["weights"] = np.asarray(own.get("weights", np.ones(_like(own, count), np.float32)))
    missing = max(0, rows - count)
    more = {name: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for name, x in own.items()}
    more["weights"][count:] = 0
    return {**more, **parts}


def _like(own, count: int) -> tuple[int, ...]:
    """The shape of weights: one a label of a token, else one an example."""
    labels = own.get("labels")
    return (count,) if labels is None or not np.issubdtype(labels.dtype, np.integer) else labels.shape


def _host_scores(predictions, batches, metrics, trials):
    counts = [len(jax.tree.leaves(batch)[0]) for batch in batches]
    fetched = jax.device_get(predictions)
    axis = len(trials)

    def join(*parts):
        cut = [np.take(part, range(count), axis=axis) for part, count in zip(parts, counts, strict=True)]
        return _together(cut, axis)

    whole = jax.tree.map(join, *fetched)
    batch = jax.tree.map(lambda *parts: _together([np.asarray(part) for part in parts], 0), *of_one_length(batches))
    weights = np.asarray(counted(batch)) if "labels" in batch else None
    if weights is not None and weights.ndim == 1:
        keep = weights > 0
        whole = jax.tree.map(lambda x: np.compress(keep, x, axis=axis), whole)
        batch = jax.tree.map(lambda x: x[keep], batch)
    scores, every = {}, list(np.ndindex(*trials))
    for name, metric in metrics.items():
        if isinstance(metric, HostMetric):
            with one_sentence(f"metric {name!r} can't be made of this set", "take another metric or a larger set"):
                values = [_host_score(metric, jax.tree.map(lambda x, at=at: x[at], whole), batch) for at in every]
            scores[name] = _plain(np.reshape(values, trials))
    return scores


def _host_score(metric, predictions, batch) -> float:
    """A metric of one trial, NaN where it diverged: the others go on."""
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves(predictions) if np.issubdtype(x.dtype, np.inexact))
    return float(metric.score(predictions, batch)) if finite else float("nan")


def _together(parts, axis: int) -> np.ndarray:
    """Arrays one after the other; where sets have rows of several lengths, those of tokens filled up with zeros."""
    widths = {part.shape[axis + 1 : axis + 2] for part in parts}
    if len(widths) > 1:
        most = max(width[0] for width in widths)
        parts = [
            np.pad(part, [(0, most - n if at == axis + 1 else 0) for at, n in enumerate(part.shape)]) for part in parts
        ]
    return np.concatenate(parts, axis=axis)


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
      >>> from ft_jax.core import Outputs, make_step, supervised
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
