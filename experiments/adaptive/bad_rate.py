"""A run that starts with a rate far too high recovers by itself: the rate falls whenever the loss plateaus."""

import dataclasses

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Images, Perceptron

from ..study import after, beats

experiment = Experiment(
    name="adaptive/bad_rate",
    model=Perceptron(image=(8, 8, 1), widths=(64,), classes=10),
    data=Images("digits", split="validation"),
    method=(Use("adaptive.plateau", metric="loss", factor=0.3, patience=0),),
    optimizer=OptimizerSpec("adam", learning_rate=0.1),
    budget=Budget(steps=500, batch_size=64),
    evaluation=EvaluationSpec(every=20, metric="loss", mode="min"),
    log_every=20,
)

baselines = {"the rate left as it was": dataclasses.replace(experiment, name="adaptive/bad_rate-fixed", method=())}
seeds = 3


def claims(results):
    """Accuracy and validation loss at the end."""
    return [
        beats(results, after, "the rate left as it was", 0.01, "accuracy at the end"),
        beats(
            results, lambda result: -after(result, "loss"), "the rate left as it was", 0.05, "minus the loss at the end"
        ),
    ]
