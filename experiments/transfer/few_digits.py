"""Digits from 100 labels: the backbone's loss on unlabelled images, or FixMatch's, beside the task's helps.

A vision transformer from scratch minimises two losses together: the head's on 100 labelled digits, and on unlabelled
ones a contrastive loss between two shifted views (Chen et al. 2020) or FixMatch's (Sohn et al. 2020). The baseline
trains on the labels alone.
"""

import dataclasses
from typing import Any

import numpy as np

from ft_jax import data, models
from ft_jax.data.augment_images import shift
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Parts, Stream, Task
from ft_jax.training.specs import Untrained, beside, share
from ft_jax.transfer import contrastive, fixmatch, joint

from ..study import after, beats

seeds = 3


@dataclasses.dataclass(frozen=True)
class FewDigits:
    """So many labelled digits, drawn by the run's seed, and beside a batch all training digits without their labels."""

    labelled: int = 100
    unlabelled_batch: int | None = 64

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train = data.load("digits", "train")
        chosen = np.random.default_rng(feed.seed).permutation(len(train))[: self.labelled]
        source = data.batches(train.take(chosen), feed.batch_size, seed=feed.seed, **share(feed))
        if self.unlabelled_batch is not None:
            source = beside(source, train.select("images"), self.unlabelled_batch, feed)
        held_out = data.evaluation_batches(data.load("digits", "test"), 100)
        return (Task("digits", source, {"digits": held_out}, self.labelled),)


def with_backbone(parts: Parts):
    """The head's loss and the backbone's."""
    return joint(contrastive(parts.model.apply, temperature=0.5, augmentation=shift(1)), weight=1.0)


def with_fixmatch(parts: Parts):
    """The head's loss and FixMatch's."""
    return fixmatch(parts.model.apply, shift(1), threshold=0.95)


experiment = Experiment(
    name="transfer/few_digits",
    model=Untrained(models.ViTConfig(image=(8, 8, 1), patch=2, width=64, layers=3, heads=4, mlp_width=128, classes=10)),
    data=FewDigits(),
    method=(with_backbone,),
    optimizer=OptimizerSpec("adam", learning_rate=2e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=400, batch_size=32),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=50,
)

baselines = {
    "the labels alone": dataclasses.replace(
        experiment, name="transfer/few_digits-alone", data=FewDigits(unlabelled_batch=None), method=()
    ),
    "FixMatch": dataclasses.replace(experiment, name="transfer/few_digits-fixmatch", method=(with_fixmatch,)),
}


def claims(results):
    """Accuracy on held-out digits."""
    return [
        beats(results, after, "the labels alone", 0.05, "accuracy on digits with the backbone's loss"),
        beats(results, after, "the labels alone", 0.02, "accuracy on digits with FixMatch", label="FixMatch"),
    ]
