"""What finished runs predict on their evaluation sets, for ensembles of them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from ft_jax.data.tables import read_npz
from ft_jax.outside import listed, printable
from ft_jax.training.evaluate import fill
from ft_jax.training.prepare import prepare
from ft_jax.training.result import Result


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Logits of one or more models on the same labelled examples.

    Attributes:
      names: of the models.
      logits: ``[models, rows, classes]``.
      labels: ``[rows]``.
    """

    names: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray

    def save(self, path: str | Path) -> None:
        """As npz with ``names``, ``logits`` and ``labels``."""
        np.savez_compressed(path, names=np.array(self.names), logits=self.logits, labels=self.labels)


def read_predictions(path: str | Path) -> Predictions:
    """Predictions that `Predictions.save` wrote, or any npz with ``logits`` and ``labels``.

    Args:
      path: with ``logits [rows, classes]`` or ``[models, rows, classes]``, ``labels [rows]`` and perhaps ``names``.

    Raises:
      ValueError: no npz, a missing array, or shapes that disagree.
    """
    path = Path(path)
    found = read_npz(path)
    for name in ("logits", "labels"):
        if name not in found:
            raise ValueError(f"{path} has no {printable(name)}, only {listed(found)}; write both into it")
    logits, labels = found["logits"], found["labels"]
    logits = logits[None] if logits.ndim == 2 else logits
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        raise ValueError(
            f"{path} has logits {found['logits'].shape} and labels {labels.shape}; give [rows, classes] and [rows]"
        )
    names = found.get(
        "names", np.array([path.stem if len(logits) == 1 else f"{path.stem} {k}" for k in range(len(logits))])
    )
    return Predictions(tuple(map(str, names)), logits, labels)


def predictions(result: Result, experiment, *, on: str | None = None, name: str | None = None) -> Predictions:
    """What a finished run predicts on one of its evaluation sets.

    Args:
      result: of `ft_jax.training.fit`; members that stay apart are models of their own.
      experiment: that was run.
      on: the evaluation set; the only one by default.
      name: of the model; the experiment's by default.

    Raises:
      ValueError: several sets and no `on`, labels that are no classes.
    """
    sets = prepare(experiment, outline=True).sets
    if on is None and len(sets) != 1:
        raise ValueError(f"{experiment.name} has the evaluation sets {listed(sets)}; say which with on=")
    if on is not None and on not in sets:
        raise ValueError(f"{experiment.name} has no evaluation set {printable(on)}; it has {listed(sets)}")
    batches = list(sets[on or next(iter(sets))])
    evaluate = jax.jit(lambda state, batch: result.program.evaluate(state, batch)[1])
    logits, labels, rows = [], [], len(batches[0]["labels"]) if batches else 0
    trials = len(result.program.trials)
    for batch in batches:
        if np.ndim(batch["labels"]) != 1 or not np.issubdtype(np.asarray(batch["labels"]).dtype, np.integer):
            raise ValueError(f"{experiment.name} predicts no classes; only classifiers' predictions are fused")
        filled = fill(batch, rows)
        predicted = np.asarray(evaluate(result.state, filled))
        predicted = predicted.reshape(-1, *predicted.shape[trials:]) if trials else predicted[None]
        # Rows that fill up the last batch are no examples.
        real = np.asarray(filled["weights"]) > 0
        logits.append(predicted[:, real])
        labels.append(np.asarray(batch["labels"])[real[: len(batch["labels"])]])
    whole = np.concatenate(logits, axis=1)
    name = name or experiment.name
    names = (name,) if len(whole) == 1 else tuple(f"{name} {index}" for index in range(len(whole)))
    return Predictions(names, whole, np.concatenate(labels))
