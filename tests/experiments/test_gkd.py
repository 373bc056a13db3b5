"""The experiment of a student that is corrected on its own texts, with a model of a few words."""

import json

import jax
import numpy as np
import pytest
from training.serving import small_runs

from experiments.distillation import ahead, gkd
from ft_jax import models
from ft_jax.training import fit


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return models.load(small_runs.decoder_folder(tmp_path_factory.mktemp("gkd") / "teacher", layers=2))


def test_a_student_comes_nearer_to_its_teacher_and_texts_are_told(teacher, monkeypatch):
    monkeypatch.setattr(gkd, "ASKED", "is the {}")
    monkeypatch.setattr(gkd, "THINGS", ("film good", "plot bad", "acting great"))
    monkeypatch.setattr(gkd, "HELD_OUT", ("film bad", "plot good", "acting awful"))
    monkeypatch.setattr(gkd, "NEW", 4)
    monkeypatch.setattr(gkd, "LENGTH", 16)
    found = gkd.study(teacher, models.with_layers(teacher, (1,)), steps=12, batch=3, share=0.5, beta=0.5)
    assert [one["way"] for one in found] == ["the teacher", "before", "supervised", "off-policy", "GKD"]
    before, _, off, own = found[1:]
    assert 0 < max(off["theirs"], own["theirs"]) < before["theirs"] and own["own"] < before["own"]
    assert off["own"] != own["own"] and [len(one["texts"]) for one in found] == [3] * 5
    assert found[0]["texts"][0][0] == "is the film bad"
    assert len(gkd.claims(found)) == 3


def test_a_divergence_is_that_of_the_labels_that_count(teacher):
    other = jax.tree.map(lambda leaf: 1.5 * leaf, teacher.params)
    given = gkd.rows([[3, 9], [3, 9, 10]], [[11, 12, 1], [12]])
    told = []
    for row in given:
        counts = row["labels"] >= 0
        p, q = (
            np.asarray(jax.nn.log_softmax(teacher.apply(params, {"input_ids": row["input_ids"][None]}, None).logits[0]))
            for params in (teacher.params, other)
        )
        told += (np.exp(p) * (p - q)).sum(axis=-1)[counts].tolist()
    found = gkd.apart((teacher.apply, teacher.apply), (teacher.params, other), given, teacher.pad_token)
    assert len(told) == 4 and found == pytest.approx(np.mean(told), rel=1e-4)


@pytest.mark.parametrize("own, met", [(1.0, [True, True, True]), (1.48, [True, True, False]), (2.0, [False] * 3)])
def test_a_claim_holds_by_what_was_measured(own, met):
    ways = {"before": 2.2, "supervised": 1.6, "off-policy": 1.5, "GKD": own}
    assert [claim.met for claim in gkd.claims([{"way": way, "own": value} for way, value in ways.items()])] == met


@pytest.mark.parametrize("way", ahead.WAYS)
def test_answers_are_the_students_wherever_they_are_made(way, tmp_path):
    made = ahead.experiment_of(way, ahead.Random(width=16, layers=1), ahead.Prompts(prompt=6, answer=4), 2)
    result = fit(made, run=tmp_path, quiet=True)
    told = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    terms = [line["distillation.jsd"] for line in told if "distillation.jsd" in line]
    assert len(terms) == 2 and all(np.isfinite(terms)) and terms[0] > 0
