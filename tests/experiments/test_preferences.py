"""The experiment of preferences: pairs, KTO's examples, and what a reward is judged by."""

import numpy as np

from experiments.rl.preferences import (
    FIRST,
    LENGTH,
    PAD,
    STOP,
    Judge,
    Sentences,
    as_judged,
    as_pairs,
    preferred,
    words_of,
)


def made(count=40):
    generator = np.random.default_rng(0)
    ids, labels = np.full((count, LENGTH), PAD, np.int32), generator.integers(0, 2, count)
    for row, label in enumerate(labels):
        long = int(generator.integers(3, LENGTH - 1))
        ids[row, :long] = generator.integers(FIRST + 2, FIRST + 20, long)
        ids[row, 0], ids[row, long] = FIRST + label, STOP
    return Sentences(ids, generator.integers(3, FIRST, count), labels)


def test_a_pair_is_of_one_domain_a_positive_and_a_negative_of_nearly_one_length():
    told = made(400)
    pairs = told.pairs(0)
    long = (told.ids != PAD).sum(1)
    assert (told.labels[pairs[:, 0]] == 1).all() and (told.labels[pairs[:, 1]] == 0).all()
    assert (told.domains[pairs[:, 0]] == told.domains[pairs[:, 1]]).all()
    assert len(np.unique(pairs)) == pairs.size
    assert np.abs(long[pairs[:, 0]] - long[pairs[:, 1]]).mean() < 2
    assert not np.array_equal(pairs, told.pairs(1))


def test_every_word_and_the_stop_are_learned_and_the_domain_is_the_prompt():
    told = made()
    row = told.rows(np.array([3]))
    long = int((told.ids[3] != PAD).sum())
    assert row["input_ids"][0, 0] == told.domains[3]
    assert row["labels"][0, :long].tolist() == told.ids[3, :long].tolist() and row["labels"][0, long - 1] == STOP
    assert (row["labels"][0, long:] == -1).all() and row["weights"].sum() == long
    assert row["attention_mask"].sum() == min(long + 1, LENGTH)


def test_kto_sees_the_same_sentences_beside_others_with_its_own_prompt():
    told = made()
    pairs = told.pairs(0)[:4]
    judged, paired = as_judged(told, pairs), as_pairs(told, pairs)
    assert judged["desirable"].tolist() == [1.0, 0.0] * 4
    assert np.array_equal(judged["input_ids"][::2], paired["chosen"]["input_ids"])
    assert np.array_equal(judged["mismatched"]["input_ids"][:, 0], judged["input_ids"][:, 0])
    assert np.array_equal(judged["mismatched"]["labels"], np.roll(judged["labels"], 1, axis=0))


def test_a_tie_is_half_right_and_the_judge_hears_the_words_that_tell():
    assert preferred(np.array([1.0, 2.0, 0.0, 3.0]), np.array([0.0, 2.0, 1.0, 2.0])) == 0.625
    told = made(200)
    judge = Judge(FIRST + 20, told)
    assert (judge.positive(told.ids) == told.labels).mean() > 0.95
    assert words_of("Don't stop -- it's GOOD, really!") == ["don't", "stop", "it's", "good", ",", "really", "!"]
