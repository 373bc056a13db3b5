"""Four learning rates as one program: the same winner as four runs one after another."""

import dataclasses

import numpy as np

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Images, Perceptron

from ..study import TUNED, Claim

RATES = (1e-4, 1e-3, 1e-2, 1e-1)

experiment = Experiment(
    name="tuning/rates",
    model=Perceptron(image=(8, 8, 1), widths=(64,), classes=10),
    data=Images("digits", split="validation"),
    method=(Use("tuning.population", numbers={"optimizer.learning_rate": list(RATES)}),),
    optimizer=OptimizerSpec("sgd", options={"momentum": 0.9}),
    budget=Budget(steps=100, batch_size=64),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
    log_every=20,
)

baselines = {
    f"rate {rate:g}": dataclasses.replace(
        experiment,
        name=f"tuning/rates-{rate:g}",
        method=(),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=rate),
    )
    for rate in RATES
}


def claims(results):
    """The trials' losses are those of the runs one by one, and so is the winner."""
    losses = {
        name: np.asarray([next(iter(result.scores["after"].values()))["loss"] for result in runs])
        for name, runs in results.items()
    }
    together = losses[TUNED][0]
    apart = np.array([losses[f"rate {rate:g}"][0] for rate in RATES])
    gap = float(np.abs(together - apart).max())
    return [
        Claim(
            f"the winner is rate {RATES[together.argmin()]:g} in one program and {RATES[apart.argmin()]:g} one by one",
            bool(together.argmin() == apart.argmin()),
        ),
        Claim(f"validation losses differ by {gap:.2g} at most, 1e-3 was claimed", gap < 1e-3),
    ]
