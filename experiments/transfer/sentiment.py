"""Sentiment of film reviews by LoRA, the labels and unlabelled sentences together, their weights learned.

The main job and the demo. MiniLM has never been told about sentiment; a linear head on its frozen embeddings finds
some of it. Here adapters learn as well, from two losses at once: cross-entropy on the labels and a contrastive loss
(SimCSE) on unlabelled reviews, balanced by uncertainty weighting.
"""

import dataclasses

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Parts, Use
from ft_jax.training.specs import Pretrained, Texts
from ft_jax.transfer import contrastive, joint

from ..study import after, beats


def two_losses(parts: Parts):
    """The task's loss with SimCSE on the batch's unlabelled part."""
    return joint(contrastive(parts.model.apply, temperature=0.5), weight=0.1)


experiment = Experiment(
    name="transfer/sentiment",
    model=Pretrained(MINILM, classes=2),
    data=Texts(("sentiment:movies",), length=48, unlabelled="sentiment:movies", unlabelled_batch=8),
    method=(
        Use("adaptive.uncertainty", terms=("task", "backbone")),
        two_losses,
        Use("transfer.lora", rank=8, alpha=16.0, targets="attention", also=("*/head/*",)),
    ),
    optimizer=OptimizerSpec(learning_rate=2e-3, schedule="linear", warmup=0.1, weight_decay=0.01, max_norm=1.0),
    budget=Budget(steps=160, batch_size=32),
    evaluation=EvaluationSpec(every=80, metric="accuracy", mode="max"),
    expect={"accuracy": 0.79, "accuracy_gain": 0.2},
)

baselines = {
    "head only": dataclasses.replace(
        experiment,
        name="transfer/sentiment-head",
        data=dataclasses.replace(experiment.data, unlabelled=None),
        method=(Use("transfer.head_only"),),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=3e-2),
        expect={},
    )
}


def claims(results):
    """Accuracy on held-out reviews."""
    return [beats(results, after, "head only", 0.04, "accuracy on reviews")]
