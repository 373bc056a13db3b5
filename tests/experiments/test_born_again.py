"""Born-again networks: every generation learns from the one before it, and what is claimed is what was measured."""

import jax
import numpy as np

from experiments.distillation.born_again import (
    ALONE,
    BOTH,
    COLUMNS,
    claims_of,
    generation,
    lineage,
    rows_of,
    table,
)
from ft_jax.training import fit


def test_a_generation_has_the_one_before_it_as_teacher_and_a_start_of_its_own(tmp_path):
    runs = str(tmp_path)
    first = fit(generation(0, steps=4, runs=runs), run=tmp_path / generation(0, steps=4).name, quiet=True)
    result = fit(generation(1, steps=4, runs=runs), run=tmp_path / "second", quiet=True)
    teacher = result.state.frozen["distillation.logits"]
    jax.tree.map(np.testing.assert_array_equal, teacher, first.params)
    assert generation(0).seed != generation(1).seed and generation(1).model == generation(0).model
    assert generation(2).method[0].options["params"].experiment == generation(1)


def test_all_generations_and_as_many_alone_are_scored(tmp_path):
    rows = rows_of([lineage(0, 1, 4, str(tmp_path))])
    assert [row["name"] for row in rows] == ["generation 0", "generation 1", BOTH, ALONE]
    assert all(np.isfinite(row[column]).all() for row in rows for column in COLUMNS)
    assert rows[2]["log_likelihood"] != rows[3]["log_likelihood"]
    assert table(rows).count("\n") == 5


def test_claims_are_met_by_the_numbers_alone():
    def rows(first, last, fused, alone):
        names = ("generation 0", "generation 1", BOTH, ALONE)
        return [{"name": n, "accuracy": [a]} for n, a in zip(names, (first, last, fused, alone), strict=True)]

    assert [claim.met for claim in claims_of(rows(0.8, 0.9, 0.95, 0.9))] == [True, True, True]
    assert [claim.met for claim in claims_of(rows(0.9, 0.904, 0.9, 0.95))] == [False, False, False]
