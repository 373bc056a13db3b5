"""Sentiment of film reviews: fine-tuned beats a head alone, which beats an untrained one.

The direction that transfer learning stands on. The fine-tuned model is also where the adaptations to tweets start.
"""

import dataclasses

import numpy as np

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Pretrained, Texts

from ..study import TUNED, Claim, after, beats

seeds = 3

experiment = Experiment(
    name="transfer/movies",
    model=Pretrained(MINILM, classes=2),
    data=Texts(("sentiment:movies",), length=32),
    method=(Use("transfer.full"),),
    optimizer=OptimizerSpec(learning_rate=2e-4, schedule="linear", warmup=0.1, max_norm=1.0),
    budget=Budget(steps=120, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

baselines = {
    "head only": dataclasses.replace(
        experiment,
        name="transfer/movies-head",
        method=(Use("transfer.head_only"),),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=3e-2),
    )
}


def claims(results):
    """Accuracy on held-out reviews."""
    untrained = np.mean([scores["accuracy"] for one in results[TUNED] for scores in one.scores["before"].values()])
    head = np.mean([after(one) for one in results["head only"]])
    return [
        beats(results, after, "head only", 0.01, "accuracy on reviews"),
        Claim(
            f"a head alone {head:.3f} against {untrained:.3f} untrained: better by {head - untrained:.3f}, "
            "at least 0.1 was claimed",
            bool(head - untrained >= 0.1),
        ),
    ]
