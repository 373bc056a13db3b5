import numpy as np
import pytest

from experiments.meta import few_shot_digits, mixed_adapters, mixed_stream, written_adapters
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


def test_tasks_that_are_held_out_are_answered_by_every_way(monkeypatch):
    monkeypatch.setattr(written_adapters, "HELD_OUT", 3)
    monkeypatch.setattr(written_adapters, "WIDTHS", (8,))
    assert len(written_adapters.TASKS) == 252 and (written_adapters.TASKS.sum(axis=1) == 5).all()
    found = written_adapters.measured("digits", 0, (4,), steps=20)
    assert all(len(values) == 1 and 0.2 < values[0] < 1.0 for values in found.values()) and len(found) == 5


def test_a_written_adapter_and_a_mixture_are_claimed_to_be_good_by_the_numbers_alone():
    ways = ("WRITTEN", "MEAN", "SHARED", "OWN", "OWN_FEW")
    values = dict(zip(ways, ([0.6, 0.9], [0.5, 0.5], [0.5, 0.5], [0.96], [0.8]), strict=True))
    one = {getattr(written_adapters, way): its for way, its in values.items()}
    rows = written_adapters.rows_of("digits", [one, one], (8, 32))
    assert [(row["tasks"], row["accuracy"]) for row in rows[:2]] == [(8, [0.6, 0.6]), (32, [0.9, 0.9])]
    assert [claim.met for claim in written_adapters.claims(rows)] == [True, False, True]

    ways = ("MIXTURE", "MEAN", "SINGLE", "ZERO", "OWN_FEW", "OWN")
    score = {getattr(mixed_adapters, way): {"a": 0.1 * place} for place, way in enumerate(ways)}
    score[mixed_adapters.MIXTURE] = {"a": 0.15}
    told = mixed_adapters.lines([score], [{"a": {"b": 0.51234}}], 10)
    assert [line["met"] for line in told if "met" in line] == [True, False, False]
    assert told[6] == {"weights_for": "a", "weights": [{"b": 0.512}]}


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
