"""Digits that arrive two classes at a time: a replay buffer and EWC keep what naive training forgets.

Class-incremental split digits, the small sibling of split-MNIST. For MNIST itself set
``data=Images("mnist")`` (through TFDS) or ``Images("mnist:path/to.npz")`` and the image's size.
"""

import dataclasses

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Images, Perceptron

from ..study import after, beats

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))

experiment = Experiment(
    name="incremental/split_digits",
    model=Perceptron(image=(8, 8, 1), widths=(128,), classes=10),
    data=Images("digits", groups=PAIRS),
    method=(Use("incremental.ewc", weight=10.0), Use("incremental.replay", capacity=200, size=32)),
    optimizer=OptimizerSpec("adam", learning_rate=3e-3),
    budget=Budget(steps=60, batch_size=32),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=20,
)

baselines = {"naive training": dataclasses.replace(experiment, name="incremental/split_digits-naive", method=())}
seeds = 3


def claims(results):
    """Average accuracy over all five pairs after the last."""
    return [beats(results, after, "naive training", 0.4, "average accuracy after the last pair")]
