"""From film reviews to tweets with 300 labels: adapted beats the film model as it is, and a head alone.

LoRA on the two upper layers of a model that was trained on film reviews. Beside it, with the same labels: a new head
on the pretrained features, and the film model's head alone on its own features.
"""

import dataclasses

import numpy as np

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Pretrained, Texts

from ..study import TUNED, Claim, after, beats
from ..trained import Trained
from . import movies

seeds = 3

UPPER = ("*layers/[45]/attention/*/kernel", "*layers/[45]/mlp/*/kernel")
"""The projections of the upper two of six layers: the others need no backward pass."""

experiment = Experiment(
    name="transfer/tweets",
    model=Trained(movies.experiment),
    data=Texts(("sentiment:tweets",), length=32, labelled=300),
    method=(Use("transfer.lora", rank=8, alpha=16.0, targets=UPPER, also=("*/head/*",)),),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=60, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

baselines = {
    "a head alone": dataclasses.replace(
        experiment,
        name="transfer/tweets-head",
        model=Pretrained(MINILM, classes=2),
        method=(Use("transfer.head_only"),),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=3e-2),
    ),
    "the film model's head alone": dataclasses.replace(
        experiment,
        name="transfer/tweets-film-head",
        method=(Use("transfer.head_only"),),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=3e-2),
    ),
}


def claims(results):
    """Accuracy on held-out tweets."""
    as_it_is = np.mean([scores["accuracy"] for one in results[TUNED] for scores in one.scores["before"].values()])
    adapted = np.mean([after(one) for one in results[TUNED]])
    return [
        Claim(
            f"accuracy on tweets {adapted:.3f} against {as_it_is:.3f} of the film model as it is: better by "
            f"{adapted - as_it_is:.3f}, at least 0.1 was claimed",
            bool(adapted - as_it_is >= 0.1),
        ),
        beats(results, after, "a head alone", 0.02, "accuracy on tweets"),
        beats(results, after, "the film model's head alone", 0.01, "accuracy on tweets"),
    ]
