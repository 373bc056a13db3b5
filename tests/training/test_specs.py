import json

import jax
import numpy as np
import pytest

from ft_jax import assets, data
from ft_jax.models import MLPConfig
from ft_jax.training import Feed
from ft_jax.training.specs import Images, Perceptron, Pretrained, Texts, Untrained, classes_of, short

PAIRS = ((0, 1), (2, 3))


def test_groups_of_classes_become_tasks_that_all_sets_measure():
    model = Perceptron(classes=10).build(jax.random.key(0))
    stream = Images("digits", groups=PAIRS).build(model, Feed(batch_size=16))
    assert [task.name for task in stream] == ["0-1", "2-3"]
    for task, group in zip(stream, PAIRS, strict=True):
        assert set(next(task.train)["labels"]) == set(group) and list(task.evaluations) == ["0-1", "2-3"]
    labels = np.concatenate([batch["labels"] for batch in stream[0].evaluations["2-3"]])
    assert set(labels) == {2, 3}


def test_an_untrained_model_is_of_its_configuration():
    spec = Untrained(MLPConfig((8, 8, 1), (4,), 10))
    model, outline = spec.build(jax.random.key(0)), spec.build(None)
    assert model.config == spec.config and classes_of(model) == 10
    assert jax.tree.map(np.shape, model.params) == jax.tree.map(np.shape, outline.params)


def test_processes_share_one_order_of_the_data():
    model = Perceptron(classes=10).build(None)
    whole = next(Images("digits").build(model, Feed(batch_size=8))[0].train)["images"]
    shares = [
        next(Images("digits").build(model, Feed(batch_size=4, process=process, processes=2))[0].train)["images"]
        for process in range(2)
    ]
    np.testing.assert_array_equal(np.stack(shares, axis=1).reshape(whole.shape), whole)


def test_a_pretrained_model_takes_its_layers_in_a_scan_and_rematerialised():
    changed = Pretrained(assets.MINILM, classes=2, scan=True, remat="full", dropout=0.0).build(None)
    assert list(changed.params["layers"]) == ["stacked"] and changed.config.scan
    assert (changed.config.remat, changed.config.dropout) == ("full", 0.0)


@pytest.fixture(scope="module")
def encoder():
    return Pretrained(assets.MINILM, classes=2).build(None)


@pytest.fixture
def reviews(tmp_path):
    texts = [f"a {'good' if at % 2 else 'bad'} film, number {at}" for at in range(80)]
    lines = [{"text": text, "labels": int("good" in text)} for text in texts]
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_texts_come_with_their_unlabelled_part(encoder, reviews):
    assert classes_of(encoder) == 2 and short(str(reviews)) == "reviews" and short("sentiment:movies") == "movies"
    spec = Texts((str(reviews),), length=16, unlabelled=str(reviews), unlabelled_batch=3)
    (task,) = spec.build(encoder, Feed(batch_size=4))
    batch = next(task.train)
    assert batch["input_ids"].shape == (4, 16) and batch["labels"].shape == (4,)
    assert batch["unlabelled"]["input_ids"].shape == (3, 16) and "labels" not in batch["unlabelled"]
    counted = sum(float(batch["weights"].sum()) for batch in task.evaluations["reviews"])
    assert counted == len(data.load(reviews, "validation")) > 0 and task.examples == len(data.load(reviews, "train"))


def test_a_label_the_head_does_not_have_is_refused(encoder, reviews):
    reviews.write_text("".join(json.dumps({"text": f"fine {at}", "labels": 2}) + "\n" for at in range(80)))
    with pytest.raises(ValueError, match="label 2 at example 0 is outside 0…1"):
        Texts((str(reviews),)).build(encoder, Feed(batch_size=1))
