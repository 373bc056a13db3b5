"""Sentiment of tweets from 300 labels by rescaling attention: IA3 with a head beats the head alone."""

import dataclasses

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Pretrained, Texts

from ..study import after, beats

experiment = Experiment(
    name="attention/tweets",
    model=Pretrained(MINILM, classes=2),
    data=Texts(("sentiment:tweets",), length=32, labelled=300),
    method=(Use("attention.ia3"), Use("transfer.head_only")),
    optimizer=OptimizerSpec(learning_rate=2e-2, schedule="linear", warmup=0.1),
    budget=Budget(steps=60, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

baselines = {
    "the head alone": dataclasses.replace(experiment, name="attention/tweets-head", method=(Use("transfer.head_only"),))
}


def claims(results):
    """Accuracy on held-out tweets."""
    return [beats(results, after, "the head alone", 0.0, "accuracy on tweets")]
