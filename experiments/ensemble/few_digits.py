"""Five networks from 100 labels in one program: their mean is better than they are on average."""

import dataclasses

import numpy as np

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Images, Perceptron

from ..study import TUNED, Claim

experiment = Experiment(
    name="ensemble/few_digits",
    model=Perceptron(image=(8, 8, 1), widths=(64,), classes=10, dropout=0.3),
    data=Images("digits", labelled=100),
    method=(Use("ensemble.members", count=5), Use("transfer.lora", rank=8, alpha=32.0, also=("*/head/*",))),
    optimizer=OptimizerSpec("adam", learning_rate=1e-2),
    budget=Budget(steps=300, batch_size=50),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=50,
)

baselines = {
    "its members": dataclasses.replace(
        experiment,
        name="ensemble/few_digits-members",
        method=(Use("ensemble.members", count=5, fusion=None), experiment.method[1]),
    )
}
seeds = 3


def claims(results):
    """Accuracy of the fused prediction against the mean of the same members' own."""

    def scores(name):
        return np.asarray([next(iter(result.scores["after"].values()))["accuracy"] for result in results[name]])

    fused, members = scores(TUNED), scores("its members")
    gap = float(fused.mean() - members.mean())
    text = f"fused accuracy {fused.mean():.3f} against {members.mean():.3f} of its members on average, over 3 seeds"
    return [Claim(f"{text}: better by {gap:.3f}, at least 0.005 was claimed", gap >= 0.005)]
