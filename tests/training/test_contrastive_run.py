"""Contrastive representation distillation in a run: the data says which example is which."""

import json

import numpy as np
import pytest

from ft_jax.training import Budget, Experiment, OptimizerSpec, Use, fit
from ft_jax.training.experiences import Experiences
from ft_jax.training.specs import Images, Perceptron


def experiment(data):
    teacher = Perceptron(image=(8, 8, 1), widths=(32,), classes=10)
    sizes = {"widths": (16, 32), "examples": 300, "negatives": 16, "dimension": 8}
    return Experiment(
        name="small",
        model=Perceptron(image=(8, 8, 1), widths=(16,), classes=10),
        data=data,
        method=(Use("distillation.crd", params=teacher, weight=0.5, **sizes), Use("transfer.full")),
        optimizer=OptimizerSpec("adam", 0.01),
        budget=Budget(steps=30, batch_size=64),
        log_every=1,
    )


def test_a_run_learns_by_it(tmp_path):
    result = fit(experiment(Experiences("digits", groups=((0, 1),), index=True)), run=tmp_path / "run", quiet=True)
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    terms = [line["distillation.crd"] for line in told if "distillation.crd" in line]
    # Before an example has come once, its rows of the banks say nothing.
    assert len(terms) == 30 and np.mean(terms[-5:]) < 0.9 * np.mean(terms[:5])
    assert result.state.memory["distillation.crd"]["student"].shape == (300, 8)


def test_data_that_does_not_say_which_example_is_which_is_refused(tmp_path):
    with pytest.raises(KeyError, match="make the batches with index=True"):
        fit(experiment(Images("digits")), run=tmp_path / "run", quiet=True)
