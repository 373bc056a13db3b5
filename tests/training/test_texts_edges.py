"""Labels of files keep one meaning through a run, its folder and the model that is saved."""

import json

import numpy as np
import pytest
from training.small import points, stream
from training.tiny_texts import TextModel, experiment, rows

from ft_jax import models
from ft_jax.core import merge
from ft_jax.training import Feed, Task, fit
from ft_jax.training.prepare import prepare
from ft_jax.training.run_folder import RunRefused
from ft_jax.training.specs import Texts
from ft_jax.training.stream import check_stream

NAMES = ("neg", "neu", "pos")


def test_two_files_with_other_labels_share_one_numbering(tmp_path):
    first, second = rows(tmp_path, "first.jsonl", NAMES), rows(tmp_path, "second.jsonl", ("pos", "neu"))
    result = fit(experiment(first, second, out=tmp_path / "run"), quiet=True)
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["classes"] == list(NAMES)
    saved = models.save(result.model, merge(result.params), tmp_path / "saved")
    config = json.loads((saved / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "neu", "2": "pos"}
    assert config["label2id"] == {"neg": 0, "neu": 1, "pos": 2}
    assert models.load(saved, tokenizer=False).classes == NAMES
    stream = Texts((first, second), length=12).build(result.model, Feed(16))
    labels = np.concatenate([np.where(b["weights"] > 0, b["labels"], -1) for b in stream[0].evaluations["second"]])
    assert set(labels) <= {-1, 1, 2} and {1, 2} & set(labels)


def test_a_loaded_model_s_names_decide_and_others_are_refused(tmp_path):
    saved = models.save(*_named(("pos", "neu", "neg")), tmp_path / "saved")
    model = models.load(saved, tokenizer=False)
    model = type(model)(**{**vars(model), "tokenizer": TextModel().build(None).tokenizer})
    address = rows(tmp_path, "a.jsonl", NAMES)
    (task,) = Texts((address,), length=12).build(model, Feed(8))
    assert task.classes == ("pos", "neu", "neg")
    with pytest.raises(ValueError, match="has the classes neg, yes and the model has pos, neu, neg"):
        Texts((rows(tmp_path, "b.jsonl", ("neg", "yes")),), length=12).build(model, Feed(8))


def _named(classes):
    import dataclasses

    import jax

    model = dataclasses.replace(TextModel().build(jax.random.key(0)), classes=classes, tokenizer=None)
    return model, model.params


def test_more_names_than_outputs_are_refused_by_both_sets(tmp_path):
    first, second = rows(tmp_path, "first.jsonl", ("neg", "pos")), rows(tmp_path, "second.jsonl", ("Neg", "pos"))
    with pytest.raises(
        ValueError, match=r"3 classes .* 2 outputs: .*first.jsonl \(train\) has neg, pos and .*Neg, pos"
    ):
        prepare(experiment(first, second, model=TextModel(outputs=2)))


def test_a_run_does_not_go_on_with_other_classes(tmp_path):
    made = experiment(rows(tmp_path, "a.jsonl", NAMES), out=tmp_path / "run")
    fit(made, quiet=True)
    rows(tmp_path, "a.jsonl", ("neg", "pos"))
    with pytest.raises(RunRefused, match="begun with the classes neg, neu, pos and the data now has neg, pos"):
        fit(made, quiet=True)


def test_tasks_that_number_their_classes_differently_are_refused():
    source = stream(points(8, 0), Feed(4))
    tasks = [Task(name, source, classes=classes) for name, classes in (("a", ("x", "y")), ("b", ("y", "x")))]
    with pytest.raises(ValueError, match="task 'a' numbers its classes x, y and task 'b' y, x"):
        check_stream(tasks)


def test_labelled_examples_of_a_sorted_file_have_all_classes(tmp_path):
    path = rows(tmp_path, "a.jsonl", NAMES, count=200)
    lines = sorted((tmp_path / "a.jsonl").read_text().splitlines(), key=lambda line: json.loads(line)["label"])
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    model = TextModel().build(None)
    (task,) = Texts((path,), length=12, labelled=30).build(model, Feed(30))
    assert np.bincount(next(task.train)["labels"]).min() >= 9 and task.examples == 30
    with pytest.raises(ValueError, match="1000 examples can't be drawn"):
        Texts((path,), length=12, labelled=1000).build(model, Feed(30))
