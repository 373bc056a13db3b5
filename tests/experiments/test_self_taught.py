"""What the experiment of a model that teaches itself counts and claims, without the model."""

import pytest

from experiments.distillation import self_taught


def test_a_capital_is_named_and_a_review_is_called_one_word_alone(monkeypatch):
    said = {
        self_taught.ASKED.format("France"): "It is Paris.",
        self_taught.ASKED.format("Peru"): "Paris",
        self_taught.QUESTION.format("good"): "The review is Positive.",
        self_taught.QUESTION.format("bad"): "It is not positive but negative.",
    }
    monkeypatch.setattr(self_taught, "CAPITALS", {"France": "Paris", "Peru": "Lima"})
    monkeypatch.setattr(self_taught, "reviews", lambda split, most: [("good", 1), ("bad", 0)])
    monkeypatch.setattr(self_taught, "answers", lambda model, params, questions: [said[one] for one in questions])
    found = self_taught.measured(None, None, asked=2)
    assert (found["old"], found["new"]) == (0.5, 0.5)
    assert found["texts"][0] == [self_taught.ASKED.format("France"), "It is Paris."] and len(found["texts"]) == 3


def test_reviews_are_as_many_of_both_and_short():
    found = self_taught.reviews("test", 8)
    assert sorted(label for _, label in found) == [0] * 4 + [1] * 4 and all(len(text) <= 120 for text, _ in found)


@pytest.mark.parametrize("kept, met", [(0.5, [True, True, False]), (0.6, [True, True, True])])
def test_a_claim_holds_by_what_was_measured(kept, met):
    rows = [
        {"way": way, "new": new, "old": old}
        for way, new, old in (("as published", 0.5, 0.7), ("fine-tuned", 0.8, 0.5), ("SDFT", 0.7, kept))
    ]
    assert [claim.met for claim in self_taught.claims(rows)] == met
