"""The experiment of a teacher with another tokenizer, with byte-level tokenizers of a few words."""

import jax
import numpy as np
import pytest
from data.byte_tokenizers import byte_level, saved

from experiments.distillation import another_tokenizer
from ft_jax import models

TEXTS = [
    "the film is good and the plot too",
    "the plot is good and so is the film",
    "a good film and a good plot it is",
]


def test_every_way_is_measured_in_bytes_and_goes_on_with_beginnings(monkeypatch, tmp_path):
    both = tuple(
        saved(tmp_path / str(place), place, byte_level(words), 512)
        for place, words in enumerate(((" film", " good", " the"), (" fi", " plot", " go")))
    )
    monkeypatch.setattr(another_tokenizer, "sentences", lambda split, most: TEXTS[:most])
    monkeypatch.setattr(another_tokenizer, "NEW", 2)
    monkeypatch.setattr(another_tokenizer, "BEGINNING", 2)
    monkeypatch.setattr(another_tokenizer, "TOP", 8)
    (tmp_path / "texts").mkdir()
    found = another_tokenizer.study(both, tmp_path / "texts", steps=8, batch=3, texts=3, held_out=3)
    by = {one["way"]: one for one in found}
    assert list(by) == ["the teacher", "before", "plain", "ULD", "ULD, common tokens"]
    assert all(by[way]["held_out"] < by["before"]["held_out"] for way in list(by)[2:])
    assert len({one["held_out"] for one in found}) == 5
    assert [text[0] for text in by["plain"]["texts"]] == ["the film", "the plot", "a good"]


def test_a_score_is_nats_over_the_bytes_of_what_is_said(tmp_path):
    model = models.load(saved(tmp_path / "model", 0, byte_level((" film",)), 512))
    (told,) = another_tokenizer.data.next_tokens(
        another_tokenizer.Dataset({"text": ["a film"]}), model.tokenizer, length=48
    )
    said = jax.nn.log_softmax(model.apply(model.params, {"input_ids": told["input_ids"][None]}, None).logits[0])
    at = list(told["labels"]).index(model.tokenizer(" film")["input_ids"][0])
    nats = -np.asarray(said)[at, told["labels"][at]]
    assert another_tokenizer.score(model, model.params, ["a film"]) == pytest.approx(nats / 5, rel=1e-4)


@pytest.mark.parametrize("uld, met", [(0.95, [True, True, True]), (0.9795, [True, False, True])])
def test_a_claim_holds_by_what_was_measured(uld, met):
    ways = {"before": 1.2, "plain": 0.98, "ULD": uld, "ULD, common tokens": 0.97}
    found = another_tokenizer.claims([{"way": way, "held_out": value} for way, value in ways.items()])
    assert [claim.met for claim in found] == met


def test_sentences_can_be_gone_on_with():
    found = another_tokenizer.sentences("test", 8)
    assert len(found) == 8 and all(12 <= len(text.split()) <= 24 for text in found)
