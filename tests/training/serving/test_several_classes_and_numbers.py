"""What labels meant in a run is what its model answers with afterwards: one class, several of them, or numbers."""

import json

import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import models
from ft_jax.cli import main
from ft_jax.training import Budget, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Labelled
from ft_jax.training.serving import load_run, predict
from ft_jax.training.specs import Pretrained

LABELS = {
    "several classes": (["good"], ["good", "plot"], [], ["plot"]),
    "numbers": (0.5, -1.25, 2.0, 0.25),
}


def file_of(folder, kind, count=40):
    texts = (*small_runs.GOOD, *small_runs.BAD)
    lines = [
        {"text": f"{texts[at % len(texts)]} {at}", "labels": LABELS[kind][at % len(LABELS[kind])]}
        for at in range(count)
    ]
    path = folder / f"{kind.partition(' ')[0]}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def runs(place):
    encoder, made = small_runs.encoder_folder(place / "encoder", layers=1), {}
    for kind in LABELS:
        experiment = Experiment(
            name=kind,
            model=Pretrained(str(encoder), classes="data", pooling="pooler"),
            data=Labelled(str(file_of(place, kind)), length=16),
            method=(Use("transfer.lora", rank=2),),
            optimizer=OptimizerSpec(learning_rate=3e-2),
            budget=Budget(steps=4, batch_size=8),
        )
        made[kind] = small_runs.run(experiment, place / kind.partition(" ")[0]).run
    return made


def test_several_classes_are_each_likelier_than_not_or_not(runs, capsys):
    kept = load_run(runs["several classes"])
    (found,) = predict(kept, ["a good film"])
    batch = {name: np.asarray(x)[None] for name, x in kept.model.tokenizer("a good film").items()}
    logits = np.asarray(kept.model.apply(kept.model.params, batch).logits[0])
    assert list(found.probabilities) == ["good", "plot"]
    np.testing.assert_allclose(list(found.probabilities.values()), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert found.labels == tuple(name for name, logit in zip(("good", "plot"), logits, strict=True) if logit > 0)
    assert main(["predict", str(runs["several classes"]), "a good film"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": "a good film", **found.as_json()}


def test_numbers_are_told_as_numbers(runs, capsys):
    assert main(["predict", str(runs["numbers"]), "a good film"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"text", "values"} and len(told["values"]) == 1


@pytest.mark.parametrize(
    ("kind", "problem"), [("several classes", "multi_label_classification"), ("numbers", "regression")]
)
def test_what_is_saved_says_what_its_outputs_are(kind, problem, runs, tmp_path):
    assert main(["export", str(runs[kind]), "--merged", str(tmp_path / "merged")]) == 0
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["problem_type"] == problem
    again = models.load(tmp_path / "merged")
    assert again.problem_type == problem
    saved = models.save(again, again.params, tmp_path / "again")
    assert json.loads((saved / "config.json").read_text())["problem_type"] == problem
    assert models.with_classifier(again, 2, None).problem_type is None


@pytest.mark.parametrize(("kind", "metric"), [("several classes", "exact_match"), ("numbers", "rmse")])
def test_such_a_run_is_measured_on_a_file_as_its_evaluation_was(kind, metric, runs, place, capsys):
    file = place / f"{kind.partition(' ')[0]}.jsonl"
    assert main(["evaluate", str(runs[kind]), "--data", str(file), "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)[metric])
    other = next(each for each in LABELS if each != kind)
    assert main(["evaluate", str(runs[kind]), "--data", str(place / f"{other.partition(' ')[0]}.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("kind", LABELS)
def test_a_stream_answers_with_one_class_alone(kind, runs, capsys):
    assert main(["stream", str(runs[kind])]) == 2
    assert "a stream answers with one class" in capsys.readouterr().err
