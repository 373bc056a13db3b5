"""A classifier's table of what was taken for what, from the devices to the summary and the report."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from training.small import experiment, points

from ft_jax.training import Budget, EvaluationSpec, Use, fit
from ft_jax.training.metrics import confusion
from ft_jax.training.report import write_report


def test_the_table_counts_as_a_plain_loop():
    draw = np.random.default_rng(0)
    labels, logits = draw.integers(-1, 3, 40), draw.normal(size=(40, 3))
    weights = draw.integers(0, 2, 40).astype(np.float32)
    wanted = np.zeros((3, 3))
    for label, row, weight in zip(labels, logits, weights, strict=True):
        if label >= 0:
            wanted[label, row.argmax()] += weight
    batch = {"labels": jnp.asarray(labels), "weights": jnp.asarray(weights)}
    table, count = confusion(3).sums(jnp.asarray(logits), batch)
    np.testing.assert_allclose(table, wanted)
    assert float(count) == wanted.sum()


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_run_keeps_the_table_of_the_scores_it_ends_with(tmp_path, keep_best):
    made = experiment(
        budget=Budget(steps=12, batch_size=8),
        evaluation=EvaluationSpec(every=4, metric="accuracy", mode="max", keep_best=keep_best),
    )
    result = fit(made, run=tmp_path, quiet=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (table,) = summary["confusion"]["sets"].values()
    (scores,) = summary["scores"]["after"].values()
    assert summary["confusion"]["classes"] == []  # the data names none, so they are told by number
    assert np.trace(table) == pytest.approx(scores["accuracy"], rel=1e-5) and "confusion" not in scores
    labels = np.asarray(points(21, 1).columns["labels"])
    np.testing.assert_allclose(np.sum(table, axis=1), np.bincount(labels, minlength=3) / 21, rtol=1e-5)
    page = write_report([result.run], tmp_path / "report.html").read_text()
    assert "What was taken for what" in page and "taken for 1" in page


def test_members_that_stay_apart_have_no_table(tmp_path):
    made = experiment(method=(Use("tuning.population", numbers={"optimizer.learning_rate": (0.01, 0.02)}),))
    assert "confusion" not in fit(made, run=tmp_path, quiet=True).summary
