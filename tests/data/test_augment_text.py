import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.data.augment_text import (
    drop_tokens,
    hide_tokens,
    replace_tokens,
    replace_uninformative,
    swap_tokens,
    word_statistics,
)
from ft_jax.data.augmentation import augmented, content_digests, in_turn

SPECIAL = (101, 102)
TEXT = {
    "input_ids": jnp.array([101, 7, 8, 9, 10, 102, 0, 0]),
    "attention_mask": jnp.array([1, 1, 1, 1, 1, 1, 0, 0]),
}
KEYS = jax.random.split(jax.random.key(0), 400)


def many(augmentation, example=TEXT):
    return jax.jit(jax.vmap(augmentation, in_axes=(0, None)))(KEYS, example)


@pytest.mark.parametrize("augmentation", [hide_tokens(0.4, SPECIAL), drop_tokens(0.4, SPECIAL)], ids=["hide", "drop"])
def test_ordinary_tokens_go_at_the_rate_and_one_stays(augmentation):
    found = many(augmentation)
    seen = np.where(found["attention_mask"] > 0, found["input_ids"], -1)
    for row in seen:
        left = [token for token in row if token >= 0]
        assert left[0] == 101 and left[-1] == 102 and len(left) > 2 and sorted(left[1:-1]) == left[1:-1]
    gone = 1 - np.mean([np.isin([7, 8, 9, 10], row).mean() for row in seen])
    assert abs(gone - 0.4) < 0.03


def test_dropped_tokens_close_up_and_hidden_ones_keep_their_places():
    hidden, dropped = many(hide_tokens(0.5, SPECIAL)), many(drop_tokens(0.5, SPECIAL, padding=0))
    np.testing.assert_array_equal(hidden["input_ids"], jnp.broadcast_to(TEXT["input_ids"], (400, 8)))
    for ids, mask in zip(np.asarray(dropped["input_ids"]), np.asarray(dropped["attention_mask"]), strict=True):
        assert mask.tolist() == sorted(mask.tolist(), reverse=True) and not ids[mask == 0].any()


def test_replaced_tokens_are_ordinary_at_the_rate():
    found = np.asarray(many(replace_tokens(0.3, (*SPECIAL, 0), vocabulary=103))["input_ids"])
    kept = np.array([0, 5, 6, 7])
    np.testing.assert_array_equal(found[:, kept], np.broadcast_to(np.asarray(TEXT["input_ids"])[kept], (400, 4)))
    words = found[:, 1:5]
    assert not np.isin(words, [0, 101, 102]).any()
    assert abs(np.mean(words != np.array([7, 8, 9, 10])) - 0.3) < 0.03
    masked = np.asarray(many(replace_tokens(0.3, SPECIAL, by=55))["input_ids"])
    assert set(np.unique(masked)) == {0, 7, 8, 9, 10, 55, 101, 102}


def test_swaps_keep_the_words_and_move_two():
    found = np.asarray(many(swap_tokens(1, SPECIAL))["input_ids"])
    assert (np.sort(found, axis=1) == np.sort(np.asarray(TEXT["input_ids"]))).all()
    moved = (found != np.asarray(TEXT["input_ids"])).sum(axis=1)
    assert set(moved.tolist()) == {0, 2} and not moved[found[:, 0] != 101].any()
    assert (found[:, [0, 5, 6, 7]] == np.array([101, 102, 0, 0])).all()


TEXTS = [np.array([1, 2, 2, 3]), np.array([1, 4]), np.array([1, 2, 5, 5, 5])]


def test_statistics_are_those_of_the_authors_code_word_by_word():
    """word_level_augment.py of google-research/uda, in its own loops."""
    frequency, documents = {}, {}
    for text in TEXTS:
        for word in set(text.tolist()):
            documents[word] = documents.get(word, 0) + 1
    idf = {word: np.log(len(TEXTS) / count) for word, count in documents.items()}
    for text in TEXTS:
        for word in text.tolist():
            frequency[word] = frequency.get(word, 0.0) + 1.0 / len(text) * idf[word]
    gaps = {word: max(frequency.values()) - value for word, value in frequency.items()}
    found = word_statistics(TEXTS, 8, special=(0,))
    for word in range(8):
        np.testing.assert_allclose(found.inverse_document_frequency[word], idf.get(word, 0.0), rtol=1e-6)
        np.testing.assert_allclose(found.chances[word], gaps.get(word, 0.0) / sum(gaps.values()), rtol=1e-5, atol=1e-8)


def test_words_are_replaced_by_how_little_they_tell():
    statistics = word_statistics(TEXTS, 103, special=SPECIAL)
    text = {"input_ids": jnp.array([101, 1, 2, 5, 5, 102, 0]), "attention_mask": jnp.array([1, 1, 1, 1, 1, 1, 0])}
    found = np.asarray(many(replace_uninformative(0.3, statistics, SPECIAL), text)["input_ids"])
    idf = statistics.inverse_document_frequency
    words = [1, 2, 5, 5]
    scores = np.array([words.count(word) / 4 * idf[word] for word in words])
    expected = np.minimum(0.3 * 4 * (scores.max() - scores) / np.sum(scores.max() - scores), 1.0)
    # A word may be drawn in its own place.
    changed = (found[:, 1:5] != np.array(words)).mean(axis=0)
    np.testing.assert_allclose(changed, expected * (1 - statistics.chances[words]), atol=0.06)
    drawn = found[:, 1][found[:, 1] != 1]
    assert set(drawn.tolist()) <= {2, 3, 4, 5} and (found[:, [0, 5, 6]] == np.array([101, 102, 0])).all()


def test_draws_depend_on_the_example_and_not_on_its_place_or_labels():
    ids = jax.random.randint(jax.random.key(1), (6, 8), 0, 100)
    batch = {"input_ids": ids, "labels": jnp.arange(6)}
    change, key = in_turn(swap_tokens(3), replace_tokens(0.5, vocabulary=100)), jax.random.key(2)
    whole = augmented(change, key, batch)
    half = augmented(change, key, {"input_ids": ids[::2], "labels": jnp.zeros(3, jnp.int32)})
    np.testing.assert_array_equal(whole["input_ids"][::2], half["input_ids"])
    assert (whole["labels"] == batch["labels"]).all()
    assert not (augmented(change, jax.random.key(3), batch)["input_ids"] == whole["input_ids"]).all()
    assert len(set(content_digests({"images": jnp.linspace(0, 1, 50).reshape(50, 1)}).tolist())) == 50


def test_bad_rates_are_refused():
    with pytest.raises(ValueError, match="drop_tokens has rate 1.2; give it a chance from 0 to 1"):
        drop_tokens(1.2)
    with pytest.raises(ValueError, match="exactly one of them"):
        replace_tokens(0.1)
    with pytest.raises(ValueError, match="no text with a word"):
        word_statistics([np.array([101])], 200, SPECIAL)
