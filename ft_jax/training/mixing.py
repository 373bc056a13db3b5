"""Adapters of other tasks mixed for the task of an experiment, from a few of its examples, and saved."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import models
from ft_jax.core import make_step
from ft_jax.ensemble import merging
from ft_jax.meta import lorahub
from ft_jax.models.checkpoints.whole_folder import vacant
from ft_jax.training.evaluate import evaluate
from ft_jax.training.experiment import Experiment
from ft_jax.training.metrics import default_predict
from ft_jax.training.objective import target_of
from ft_jax.training.prepare import prepare

MIXTURE, MEAN, ZERO = "mixture", "mean", "none"
RECORD = "lorahub.json"
"""In the mixture's folder, beside peft's two files: the weights, and what every way came to."""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """What mixing came to.

    Attributes:
      folder: with the mixture as peft's two files.
      weights: of every adapter, by its folder.
      examples: how many the weights were found from.
      loss: the mean loss on them, by way: the `MIXTURE`, the `MEAN` of the updates, each adapter by its folder, and
        `ZERO`, all weights 0.
      scores: the same ways on the evaluation set, every metric by name; empty where the data has no such set.
    """

    folder: Path
    weights: Mapping[str, float]
    examples: int
    loss: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]


def mix(
    experiment: Experiment,
    adapters: Sequence[str],
    out: Path,
    *,
    examples: int = 32,
    budget: int = 40,
    penalty: float = 0.05,
    seed: int = 0,
    overwrite: bool = False,
) -> Mixed:
    """Finds the weights of `ft_jax.meta.lorahub` for an experiment's first task, and saves the mixture.

    Args:
      experiment: model and data; it trains nothing, so its methods, optimizer and budget don't matter.
      adapters: folders of one kind, rank and base; heads saved with them are mixed too.
      out: the folder to write.
      examples: how many of the training examples the weights are found from.
      budget, penalty, seed: of the search.
      overwrite: whether `out` may be replaced.

    Raises:
      FileExistsError: where `out` is there and `overwrite` is off.
      FileNotFoundError: where a folder is no adapter's.
      ValueError: fewer than two adapters, one that is given twice or belongs to another base, no example, and what
        `lorahub` refuses.
    """
    if len(adapters) < 2 or len(set(adapters)) < len(adapters) or examples < 1 or budget < 1:
        raise ValueError(
            f"there are {len(set(adapters))} adapters, {examples} examples and {budget} mixtures to look at; give at "
            "least 2, 1 and 1, and no adapter twice"
        )
    vacant(out, overwrite)
    rows = min(experiment.budget.batch_size, examples)
    plan = prepare(
        dataclasses.replace(
            experiment,
            method=(),
            budget=dataclasses.replace(experiment.budget, batch_size=rows, accumulate=1, epochs=None, steps=1),
        )
    )
    task, model = plan.stream[0], plan.model
    loaded = {name: models.load_adapter(name, model)[1] for name in adapters}
    first = next(task.train)
    rest = max(0, math.ceil(min(examples, task.examples or examples) / rows) - 1)
    few = [first, *(next(task.train) for _ in range(rest))]
    program = make_step(
        experiment.loss_of(model, first),
        optax.identity(),
        predict=experiment.predict or default_predict(False, target_of(model, first)),
    )

    def loss(params):
        state = program.init(params, jax.random.key(0))
        return jnp.mean(jnp.stack([sum(program.evaluate(state, batch).terms.values()) for batch in few]))

    hub = lorahub(loss, loaded, budget=budget, penalty=penalty, seed=seed)
    ways = {MIXTURE: hub.params, MEAN: _mean(adapters, model), **loaded, ZERO: hub.at(dict.fromkeys(loaded, 0.0))}
    losses, scores = {}, {}
    for name, params in ways.items():
        state = program.init(params, jax.random.key(0))
        losses[name] = float(jax.jit(loss)(params))
        if plan.sets:
            found = evaluate(program, state, plan.sets[plan.watched(0)], plan.metrics)
            scores[name] = {metric: float(value) for metric, value in found.items() if np.ndim(value) == 0}
    folder = models.save_adapter(model, hub.params, out, overwrite=overwrite)
    mixed = Mixed(folder, dict(hub.weights), rows * len(few), losses, scores)
    record = {**dataclasses.asdict(mixed), "folder": str(folder), "budget": budget, "penalty": penalty, "seed": seed}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return mixed


def _mean(adapters: Sequence[str], model: Any) -> Any:
    """The model's parameters with the mean of the adapters' updates, exact at the sum of their ranks."""
    with tempfile.TemporaryDirectory() as parent:
        merging.merge_adapters(merging.uniform(), adapters, f"{parent}/mean", base="base")
        return models.load_adapter(f"{parent}/mean", model)[1]
