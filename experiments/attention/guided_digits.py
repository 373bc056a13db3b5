"""A small vision transformer learns which part of a cluttered picture is the digit, from few labels.

Each picture holds one real digit among patches of other digits with their pixels shuffled. From 200 labelled pictures
a transformer from scratch hardly learns where to look. Here each label comes with its rationale, the patches that the
digit covers, and attention supervision (Mathew et al. 2021) draws the class token's attention to them.
"""

import dataclasses
from typing import Any

import numpy as np

from ft_jax import data, models
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use
from ft_jax.training.specs import Untrained

from ..study import after, beats

SIDE, PATCH, CELLS = 24, 4, 3


VIT = Untrained(
    models.ViTConfig(
        image=(SIDE, SIDE, 1), patch=PATCH, width=48, layers=3, heads=4, mlp_width=96, classes=10,
        collect=("attention",),
    )
)  # fmt: skip


def cluttered(examples: data.Dataset, seed: int) -> data.Dataset:
    """Each digit in one of nine places, six of the others filled with shuffled digits; and where it is."""
    generator = np.random.default_rng(seed)
    digits, labels = np.asarray(examples.column("images")), np.asarray(examples.column("labels"))
    images = np.zeros((len(digits), SIDE, SIDE, 1), np.float32)
    rationales = np.zeros((len(digits), 1 + (SIDE // PATCH) ** 2), np.float32)
    for row, digit in enumerate(digits):
        places = generator.permutation(CELLS**2)
        for at, place in enumerate(places[:7]):
            y, x = (8 * int(part) for part in divmod(int(place), CELLS))
            other = digits[generator.integers(len(digits))]
            shown = digit if at == 0 else generator.permuted(other.reshape(-1)).reshape(8, 8, 1)
            images[row, y : y + 8, x : x + 8] = shown
            if at == 0:
                covered = np.zeros((SIDE // PATCH,) * 2)
                covered[y // PATCH : y // PATCH + 2, x // PATCH : x // PATCH + 2] = 1
                rationales[row, 1:] = covered.reshape(-1)
    return data.Dataset({"images": images, "labels": labels.astype(np.int32), "rationales": rationales})


@dataclasses.dataclass(frozen=True)
class ClutteredDigits:
    """Cluttered pictures of `labelled` training digits; test pictures hold digits of the test split."""

    labelled: int = 200

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train = cluttered(data.sample(data.load("digits", "train"), self.labelled, feed.seed), feed.seed)
        test = cluttered(data.load("digits", "test"), 10**6).select("images", "labels")
        source = data.batches(train, feed.batch_size, seed=feed.seed)
        return (Task("digits", source, {"digits": data.evaluation_batches(test, 64)}, len(train)),)


experiment = Experiment(
    name="attention/guided_digits",
    model=VIT,
    data=ClutteredDigits(),
    method=(Use("attention.supervision", weight=1.0, layers=None, queries="first"),),
    optimizer=OptimizerSpec("adam", learning_rate=2e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=300, batch_size=40),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=50,
)

baselines = {
    "the labels alone": dataclasses.replace(experiment, name="attention/guided_digits-unguided", method=()),
}
seeds = 3


def claims(results):
    """Accuracy on digits and clutter never trained on."""
    return [beats(results, after, "the labels alone", 0.05, "accuracy from 200 labels with rationales")]
