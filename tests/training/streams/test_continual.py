"""What was learned and forgotten over tasks, against tables worked out by hand, and drawn."""

import numpy as np
import pytest
from training.small import Points, experiment

from ft_jax.training import Budget, EvaluationSpec, fit
from ft_jax.training.continual import continual, matrix_of
from ft_jax.training.report import write_report

THREE = [
    [0.10, 0.20, 0.10],
    [0.90, 0.40, 0.20],
    [0.70, 0.80, 0.50],
    [0.60, 0.85, 0.90],
]


def test_the_numbers_are_those_of_a_table_worked_out_by_hand():
    found = continual(THREE)
    assert found["average"] == pytest.approx((0.60 + 0.85 + 0.90) / 3)
    # Task 1 fell from 0.90 to 0.60, task 2 rose from 0.80 to 0.85; the last task can't have been forgotten.
    assert found["forgetting"] == pytest.approx((0.30 - 0.05) / 2)
    assert found["backward_transfer"] == pytest.approx(-0.125)
    # Task 2 after task 1 against before training, task 3 after task 2: not after task 1, where it was 0.20.
    assert found["forward_transfer"] == pytest.approx(((0.40 - 0.20) + (0.50 - 0.10)) / 2)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) is not \[1 \+ tasks, tasks\]"):
        continual(np.eye(3))


def test_a_run_over_tasks_has_a_matrix_and_a_heat_map_in_its_report(tmp_path):
    made = experiment(
        data=Points(shifts=(0.0, 3.0)),
        budget=Budget(steps=6, batch_size=8),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    )
    result = fit(made, run=tmp_path, quiet=True)
    names, matrix = matrix_of(result.scores)
    assert names == ["shift0", "shift3"]
    assert matrix[2, 0] == result.scores["after"]["shift0"]["accuracy"]
    assert matrix[1, 1] == result.scores["after shift0"]["shift3"]["accuracy"]
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Tasks in turn: accuracy" in page and f"after shift3: shift0 {matrix[2, 0]:.3f}" in page
    assert f"{continual(matrix)['forgetting']:.3f}".replace("-", "−") in page
    assert matrix_of({"before": {}, "after": {}}) is None and matrix_of(result.scores, "f1") is None
