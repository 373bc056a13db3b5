"""A small network learns digits from 150 labels and a larger network's logits, better than from the labels alone.

Hinton, Vinyals and Dean 2015, section 3, in small: the teacher has seen every training label, the student the labels
of 150 images and what the teacher thinks of them.
"""

import dataclasses

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Images, Perceptron

from ..study import after, beats
from ..trained import Trained

teacher = Experiment(
    name="distillation/digits-teacher",
    model=Perceptron(image=(8, 8, 1), widths=(512, 512), classes=10, dropout=0.2),
    data=Images("digits"),
    method=(Use("transfer.full"),),
    optimizer=OptimizerSpec("adam", learning_rate=1e-3, schedule="linear"),
    budget=Budget(steps=400, batch_size=64),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

experiment = Experiment(
    name="distillation/digits",
    model=Perceptron(image=(8, 8, 1), widths=(24,), classes=10),
    data=Images("digits", labelled=150),
    method=(Use("distillation.logits", params=Trained(teacher), temperature=4.0, weight=1.0),),
    optimizer=OptimizerSpec("adam", learning_rate=5e-3, schedule="linear"),
    budget=Budget(steps=400, batch_size=50),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

baselines = {"the same network alone": dataclasses.replace(experiment, name="distillation/digits-alone", method=())}
seeds = 3


def claims(results):
    """Test accuracy of the student."""
    return [beats(results, after, "the same network alone", 0.005, "test accuracy of the student")]
