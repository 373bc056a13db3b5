import dataclasses

import numpy as np
import pytest
from data.tiny_tokenizers import for_encoders

from experiments.meta.digit_episodes import experiment
from ft_jax.training import Budget, Feed, fit
from ft_jax.training.few_shot import Domains, FewShot, Sinusoids

SPEC = FewShot("digits", train=(0, 1, 2, 3), test=(7, 8, 9), ways=3, shots=2, train_shots=4, queries=3, episodes=5)


class Reader:
    """A model as data specs see it."""

    pad_token = 0
    tokenizer = for_encoders()


def test_episodes_have_every_class_as_often_as_asked_and_in_an_order_of_their_own():
    (task,) = SPEC.build(None, Feed(4))
    batch = next(task.train)
    assert batch["support"]["labels"].shape == (4, 12) and batch["query"]["images"].shape == (4, 9, 8, 8, 1)
    for labels in batch["support"]["labels"]:
        assert np.bincount(labels).tolist() == [4, 4, 4]
    batches = task.evaluations["new classes"]
    assert [len(one["query"]["labels"]) for one in batches] == [4, 1]
    assert batches[0]["support"]["labels"].shape == (4, 6)


def test_no_query_example_is_in_its_support():
    (task,) = SPEC.build(None, Feed(8))
    batch = next(task.train)
    for support, query in zip(batch["support"]["images"], batch["query"]["images"], strict=True):
        known = {image.tobytes() for image in support}
        assert not any(image.tobytes() in known for image in query)


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    (task,), (again,), (other,) = (SPEC.build(None, Feed(2, seed=seed)) for seed in (0, 0, 1))
    first, second = next(task.train), next(task.train)
    again.train.set_state(1)
    np.testing.assert_array_equal(next(again.train)["support"]["images"], second["support"]["images"])
    assert not np.array_equal(next(other.train)["support"]["images"], first["support"]["images"])
    kept = [one["query"]["images"] for one in task.evaluations["new classes"]]
    for mine, theirs in zip(kept, other.evaluations["new classes"], strict=True):
        np.testing.assert_array_equal(mine, theirs["query"]["images"])


def test_processes_draw_tasks_of_their_own():
    (one,), (two,) = (SPEC.build(None, Feed(2, process=process, processes=2)) for process in (0, 1))
    (whole,) = SPEC.build(None, Feed(4))
    parts = [next(task.train)["support"]["images"] for task in (one, two)]
    both = np.stack(parts, axis=1).reshape(4, *parts[0].shape[1:])
    np.testing.assert_array_equal(both, next(whole.train)["support"]["images"])


def test_a_curve_is_a_sinusoid_of_the_papers_ranges():
    task = Sinusoids(shots=400, queries=400).draw(np.random.default_rng(0))
    x = np.concatenate([task[part]["images"].ravel() for part in ("support", "query")])
    y = np.concatenate([task[part]["labels"] for part in ("support", "query")])
    basis = np.stack([np.sin(x), np.cos(x)], axis=1)
    (a, b), residual, *_ = np.linalg.lstsq(basis, y, rcond=None)
    assert residual < 1e-6 * np.sum(y**2)
    assert 0.1 <= np.hypot(a, b) <= 5 and 0 <= np.arctan2(-b, a) <= np.pi and abs(x).max() <= 5


def test_domains_are_tasks_of_their_own(tmp_path):
    files, ids = {}, {word: Reader.tokenizer.token_to_id(word) for word in ("film", "plot", "acting")}
    for word in ids:
        rows = [f"{word} {('bad', 'good')[index % 2]} {index},{('no', 'yes')[index % 2]}" for index in range(12)]
        files[word] = str(tmp_path / f"{word}.csv")
        (tmp_path / f"{word}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    spec = Domains((files["film"], files["plot"]), (files["acting"],), shots=2, queries=2, episodes=3, length=12)
    (task,) = spec.build(Reader(), Feed(6))
    seen = []
    for tokens in next(task.train)["support"]["input_ids"]:
        (word,) = set(tokens[:, 1].tolist())
        seen.append(word)
    assert set(seen) == {ids["film"], ids["plot"]}
    held = task.evaluations["acting"][0]["query"]
    assert set(held["input_ids"][..., 1].ravel().tolist()) == {ids["acting"]}
    assert np.bincount(held["labels"].ravel()).tolist() == [6, 6]


def test_what_makes_no_tasks_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="share class 3"):
        dataclasses.replace(SPEC, test=(3, 8, 9)).check()
    with pytest.raises(ValueError, match="data.test has 2 classes for tasks of 3"):
        dataclasses.replace(SPEC, test=(8, 9)).check()
    with pytest.raises(ValueError, match="a task takes 1004 of each"):
        dataclasses.replace(SPEC, queries=1000).build(None, Feed(1))


def test_an_experiment_learns_from_episodes_and_is_measured_on_tasks_that_do_not_fill_a_batch(tmp_path):
    data = dataclasses.replace(experiment.data, episodes=18)
    short = dataclasses.replace(experiment, data=data, budget=Budget(steps=60, batch_size=16), expect={})
    result = fit(short, run=tmp_path / "run", quiet=True)
    before, after = (result.scores[phase]["new classes"]["accuracy"] for phase in ("before", "after"))
    assert before > 1 / 3 - 0.15 and after > before - 0.05
    assert result.scores["after"]["new classes"]["loss"] < result.scores["before"]["new classes"]["loss"]
