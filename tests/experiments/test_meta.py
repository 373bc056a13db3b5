import numpy as np
import pytest

from experiments.meta import few_shot_digits, mixed_stream
from ft_jax.meta import maml
from ft_jax.meta.choosing import Ucb


def test_new_digits_are_apart_from_those_of_training_and_no_task_has_an_example_twice():
    found = few_shot_digits.digits("digits")
    training, testing = few_shot_digits.split(1)
    assert not {*(training % 10)} & {*testing} and (testing < 10).all() and len(training) == 15
    batch = few_shot_digits.episodes(np.random.default_rng(0), found, training, 2, 3, 4)
    assert batch["support"]["images"].shape == (4, 10, 8, 8, 1) and batch["query"]["labels"].shape == (4, 15)
    for task in range(4):
        whole = np.concatenate([batch[part]["images"][task].reshape(-1, 64) for part in ("support", "query")])
        assert len(np.unique(whole, axis=0)) == len(whole)
    # Class 11 is a one, turned by a quarter to the left.
    upright, turned = (found.images[found.rows[one]] for one in (1, 11))
    np.testing.assert_array_equal(turned, np.rot90(upright, axes=(1, 2)))


def test_an_adaptation_is_taken_that_is_best_on_the_classes_of_training(monkeypatch):
    monkeypatch.setattr(few_shot_digits, "INNER", ((0.0, 1), (0.1, 5)))
    found, (training, testing) = few_shot_digits.digits("digits"), few_shot_digits.split(0)
    model = few_shot_digits.network(found, 0)
    program, state = few_shot_digits.learned(maml(0.1, 1), model.params, found, lambda random: None, 0, 0)
    known, new = (few_shot_digits.episodes(np.random.default_rng(0), found, c, 2, 2, 8) for c in (training, testing))
    told = few_shot_digits.judged(program, state, known, new, "meta.maml")
    # A random start without a step is right by chance alone.
    assert (told["inner_rate"], told["inner_steps"]) == (0.1, 5) and told["accuracy"] > 0.3


def test_claims_are_met_by_the_numbers_alone():
    ways = ("MAML", "ANIL", "Reptile", "ProtoNet", "MAML over LoRA", few_shot_digits.FINE_TUNING)
    seeds = [{way: {"accuracy": 0.5 + 0.1 * (way == "ANIL")} for way in ways}]
    claims = few_shot_digits.claims(few_shot_digits.rows_of("digits", {1: seeds}))
    assert [claim.met for claim in claims] == [False, True, False, False, False]
    assert "ANIL 0.600 against 0.500" in claims[1].text


@pytest.fixture
def small(monkeypatch):
    """Sources and candidates in small: points of two kinds, and a network that can't learn them beside one that can."""
    monkeypatch.setattr(mixed_stream, "SHAPES", {"wide": (16,), "deep": (2, 2)})
    monkeypatch.setattr(mixed_stream, "CONTROLLERS", {"UCB1": (Ucb(tunes=False), False)})
    random = np.random.default_rng(0)
    labels = [np.arange(300) % count for count in (10, 2)]
    return [(mixed_stream.scaled(random.normal(size=(300, 20)) + 3 * np.eye(20)[own]), own) for own in labels]


def test_regret_is_what_the_best_fixed_candidate_gets_in_more(small):
    mixed_stream.follower.cache_clear()
    one = mixed_stream.measured(0, 6, small)
    chosen, got = one["UCB1"].T
    # The program that chooses trains each candidate as a run of its own does.
    np.testing.assert_array_equal(got, one["rewards"][np.arange(6), chosen.astype(int)])
    first, ours, chance, ideal = mixed_stream.rows_of([one])
    best = one["names"].index(first["best"][0])
    assert ours["regret"][0][-1] == pytest.approx(np.sum(one["rewards"][:, best] - got), abs=2e-3)
    assert ideal["regret"][0][-1] <= 0 <= chance["regret"][0][-1]
    claims = mixed_stream.claims([first, ours, chance, ideal])
    assert claims[1].met == (ours["regret"][0][-1] <= 0.5 * chance["regret"][0][-1])
