"""The experiment of a MiniLM with half of its layers."""

import dataclasses

import jax
import numpy as np
from training.serving import small_runs

from experiments.distillation import shorter_minilm
from experiments.distillation.shorter_minilm import SomeLayers, latencies, rows
from experiments.study import TUNED
from ft_jax import models
from ft_jax.training.specs import Pretrained


def test_every_way_can_be_run_as_it_is_written():
    for one in (shorter_minilm.teacher, shorter_minilm.experiment, *shorter_minilm.baselines.values()):
        one.check()
        assert one.data == shorter_minilm.teacher.data and one.budget.batch_size == 16


def test_the_student_has_the_layers_and_a_row_says_what_is_saved(tmp_path):
    folder = small_runs.encoder_folder(tmp_path / "base", layers=4)
    whole, few = (
        spec.build(jax.random.key(0))
        for spec in (Pretrained(str(folder), classes=2), SomeLayers(Pretrained(str(folder), classes=2), (1, 3)))
    )
    for place, number in enumerate((1, 3)):
        jax.tree.map(
            np.testing.assert_array_equal, few.params["layers"][str(place)], whole.params["layers"][str(number)]
        )
    assert (
        few.parameters
        < whole.parameters
        == SomeLayers(Pretrained(str(folder), classes=2), (0, 1, 2, 3)).build(None).parameters
    )

    @dataclasses.dataclass(frozen=True)
    class Run:
        model: models.Model
        scores: dict

    def run(model, accuracy):
        return Run(model, {"after": {"reviews": {"accuracy": accuracy}}})

    few_runs = [run(few, 0.5), run(few, 0.7)]
    told = rows({TUNED: few_runs, **dict.fromkeys(shorter_minilm.baselines, few_runs)}, run(whole, 0.8))
    assert [one["layers"] for one in told] == [4, 2, 2, 2] and told[0]["latency"] == [1.0, 1.0, 1.0]
    assert told[1]["accuracy"] == [0.5, 0.7] and 0 < told[1]["latency"][1] <= told[1]["latency"][0]


def test_latency_is_taken_in_turns_of_warm_models(tmp_path):
    model = models.load(small_runs.encoder_folder(tmp_path / "base"))
    with_head = models.with_classifier(model, 2, jax.random.key(0))
    assert latencies([with_head, with_head], repeats=3).shape == (3, 2)
