"""Scores against counting by hand, and pictures that are there."""

import sys

import numpy as np
import pytest

from ft_jax.multimodal.evaluation import (
    bleu,
    caption_picture,
    corrupted,
    embedding_picture,
    exact_match,
    recalls,
    retrieval_picture,
    without,
    without_each,
)


def test_recalls_both_ways_equal_counting():
    rng = np.random.default_rng(0)
    values, same = rng.normal(size=(7, 9)), rng.random((7, 9)) < 0.3
    same[np.arange(7), np.arange(7)] = True
    same[:, 7:] |= np.arange(7)[:, None] == 2
    found = recalls(values, ks=(1, 3), same=same)
    for name, near, right in (("image_to_text", values, same), ("text_to_image", values.T, same.T)):
        for k in (1, 3):
            hits = sum(
                any(
                    right[row][column]
                    for column in sorted(range(near.shape[1]), key=lambda c, row=row: -near[row][c])[:k]
                )
                for row in range(len(near))
            )
            assert found[f"{name}@{k}"] == pytest.approx(hits / len(near))
    assert recalls(np.eye(4), ks=(1,)) == {"image_to_text@1": 1.0, "text_to_image@1": 1.0}


def test_what_can_not_be_scored_is_refused():
    for values, options, says in (
        (np.full((2, 2), np.nan), {}, "must be finite"),
        (np.eye(3), {"ks": (4,)}, "k is 4 and there are 3"),
        (np.eye(2), {"ks": (1,), "same": np.array([[1, 0], [1, 0]])}, "nothing right to find"),
        (np.eye(2), {"ks": (1,), "same": np.eye(3)}, "give them one shape"),
    ):
        with pytest.raises(ValueError, match=says):
            recalls(values, **options)
    with pytest.raises(ValueError, match="1 captions and 2 wanted"):
        exact_match(["a"], ["a", "b"])
    with pytest.raises(KeyError, match="no 'image' to take away"):
        without({"text": {}}, "image")


def test_scores_without_each_see_what_they_should():
    batch = {
        "a": {"x": np.ones((50, 2), np.float32)},
        "b": {"input_ids": np.arange(50)[:, None], "present": np.ones(50)},
    }
    seen = []

    def score(batch):
        seen.append({name: {field: np.array(x) for field, x in part.items()} for name, part in batch.items()})
        return float(len(batch))

    found = without_each(score, batch, ("a", "b"))
    assert found == {"all": 2.0, "without a": 1.0, "a corrupted": 2.0, "a alone": 1.0,
                     "without b": 1.0, "b corrupted": 2.0, "b alone": 1.0}  # fmt: skip
    assert (seen[5]["b"]["input_ids"] != batch["b"]["input_ids"]).mean() > 0.5
    assert (seen[5]["b"]["present"] == 1).all() and (seen[5]["a"]["x"] == 1).all()
    noisy = corrupted({"a": {"x": np.random.default_rng(7).normal(size=(4000, 2))}}, "a", amount=2.0)["a"]["x"]
    assert abs(noisy.std() - np.sqrt(5)) < 0.1


def test_pictures_are_written(tmp_path):
    rng = np.random.default_rng(0)
    one = retrieval_picture(tmp_path / "r.png", rng.random((5, 8, 8, 1)), list("abcde"), np.eye(5))
    two = embedding_picture(
        tmp_path / "e.png", {"image": rng.normal(size=(6, 4)), "text": rng.normal(size=(6, 4))}, list("aabbcc")
    )
    assert one.stat().st_size > 2000 and two.stat().st_size > 2000
    with pytest.raises(ValueError, match="give as many of each"):
        retrieval_picture(tmp_path / "x.png", rng.random((5, 8, 8)), ["a"], np.eye(5))


def test_bleu_is_a_hundred_for_what_is_wanted_and_counts_the_better_of_several():
    pytest.importorskip("sacrebleu")
    right = ["a small three left of a large seven", "a large one left of a small two"]
    assert bleu(right, right) == pytest.approx(100)
    wrong = ["a small three left of a large six", right[1]]
    assert 0 < bleu(wrong, right) < 100
    assert bleu(wrong, [[right[0], wrong[0]], right[1]]) == pytest.approx(100)
    with pytest.raises(ValueError, match="there are 1 captions and 2 wanted; give one for each"):
        bleu(right[:1], right)


def test_bleu_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ModuleNotFoundError, match=r'BLEU needs sacrebleu; pip install "ft_jax\[captions\]"'):
        bleu(["a"], ["a"])


def test_a_picture_of_captions_is_written(tmp_path):
    images = np.zeros((3, 8, 16, 1))
    path = caption_picture(tmp_path / "captions.png", images, ["a one", "a two", "a two"], ["a one", "a two", "a six"])
    assert path.stat().st_size > 1000
    with pytest.raises(ValueError, match="there are 3 images, 1 captions and 1 wanted; give as many of each"):
        caption_picture(tmp_path / "captions.png", images, ["a one"], ["a one"])
