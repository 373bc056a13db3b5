"""What finished runs predict, for ensembles of them."""

import numpy as np

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use, fit
from ft_jax.training.predictions import predictions
from ft_jax.training.specs import Images, Perceptron


def test_every_example_is_predicted_once_and_rows_that_fill_a_batch_are_none(tmp_path):
    experiment = Experiment(
        name="few",
        model=Perceptron(widths=(8,)),
        data=Images("digits", labelled=20),
        method=(Use("ensemble.members", count=2, fusion=None), Use("ensemble.own_start")),
        optimizer=OptimizerSpec("adam", learning_rate=1e-2),
        budget=Budget(steps=2, batch_size=16),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    )
    result = fit(experiment, run=tmp_path / "few", quiet=True)
    found = predictions(result, experiment)
    (scores,) = result.scores["after"].values()
    assert len(found.labels) % 16 and found.logits.shape == (2, len(found.labels), 10)
    np.testing.assert_allclose((found.logits.argmax(-1) == found.labels).mean(-1), scores["accuracy"], rtol=1e-6)
