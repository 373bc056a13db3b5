"""Generation over a cache equals the slow way, and samples what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.core.params import replace_weights
from ft_jax.core.weights import LowRank, merge

KEY = jax.random.key(0)
MODEL = models.tiny_decoder(KEY)
PROMPTS = jax.random.randint(jax.random.key(1), (3, 6), 1, 32)
MASK = jnp.array([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]])


def slow(prompt, new, params=MODEL.params):
    """Greedy continuation and its log-probabilities without a cache."""
    ids, scores = list(map(int, prompt)), []
    for _ in range(new):
        # Filled up on the right, which a causal network can't see, so that one compilation serves all lengths.
        filled = jnp.array([ids + [0] * (16 - len(ids))])
        logits = jax.jit(MODEL.apply)(params, {"input_ids": filled}).logits[0, len(ids) - 1]
        ids.append(int(jnp.argmax(logits)))
        scores.append(float(jax.nn.log_softmax(logits)[ids[-1]]))
    return ids[len(prompt) :], scores


def rows():
    return [PROMPTS[i, : int(MASK[i].sum())] for i in range(3)]


def test_greedy_equals_running_the_whole_sequence_again_each_step():
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7)
    for i, row in enumerate(rows()):
        tokens, scores = slow(row, 7)
        assert got.tokens[i].tolist() == tokens
        np.testing.assert_allclose(got.log_probabilities[i], scores, atol=1e-5)
    assert got.lengths.tolist() == [7, 7, 7]


def test_padding_on_either_side_gives_the_same():
    left = np.zeros((3, 9), np.int32)
    for i, row in enumerate(rows()):
        left[i, 9 - len(row) :] = row
    right = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7)
    other = models.generate(MODEL, MODEL.params, left, (left > 0).astype(np.int32), max_new_tokens=7)
    np.testing.assert_array_equal(right.tokens, other.tokens)


def test_each_sequence_stops_by_itself():
    free = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=8)
    stop = int(free.tokens[1, 2])
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=8, stop_tokens=(stop,), pad_token=31)
    for i in range(3):
        row = free.tokens[i].tolist()
        length = row.index(stop) + 1 if stop in row else 8
        assert int(got.lengths[i]) == length
        assert got.tokens[i].tolist() == row[:length] + [31] * (8 - length)
        np.testing.assert_array_equal(got.log_probabilities[i, length:], np.zeros(8 - length))
    assert int(got.lengths[1]) <= 3


def test_sampled_log_probabilities_are_those_of_a_full_forward_pass():
    got = models.generate(MODEL, MODEL.params, PROMPTS, max_new_tokens=6, key=KEY, temperature=0.7, top_k=5)
    whole = jnp.concatenate([PROMPTS, got.tokens], axis=1)
    logits = MODEL.apply(MODEL.params, {"input_ids": whole}).logits[:, 5:-1] / 0.7
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits), got.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(got.log_probabilities, expected, atol=1e-5)
    ranks = (logits > jnp.take_along_axis(logits, got.tokens[..., None], axis=-1)).sum(axis=-1)
    assert int(ranks.max()) < 5 and int(ranks.max()) > 0


def frequencies(**options):
    got = models.generate(
        MODEL, MODEL.params, PROMPTS[:1], max_new_tokens=1, key=KEY, samples=4000, temperature=1.0, **options
    )
    probabilities = np.asarray(jax.nn.softmax(MODEL.apply(MODEL.params, {"input_ids": PROMPTS[:1]}).logits[0, -1]))
    return np.bincount(np.asarray(got.tokens[:, 0]), minlength=32) / 4000, probabilities


def test_samples_follow_the_distribution():
    got, expected = frequencies()
    np.testing.assert_allclose(got, expected, atol=0.03)


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"top_k": 3}, lambda p: p >= np.sort(p)[-3]),
        ({"top_p": 0.5}, lambda p: p >= np.sort(p)[::-1][np.argmax(np.cumsum(np.sort(p)[::-1]) >= 0.5)]),
        ({"min_p": 0.5}, lambda p: p >= 0.5 * p.max()),
        ({"top_k": 6, "top_p": 0.4}, None),
    ],
)
def test_restricted_samples_follow_the_renormalised_distribution(options, keep):
    got, probabilities = frequencies(**options)
    if keep is None:
        top = probabilities * (probabilities >= np.sort(probabilities)[-6])
        top = top / top.sum()
        ranked = np.sort(top)[::-1]
        kept = top * (top >= ranked[np.argmax(np.cumsum(ranked) >= 0.4)])
    else:
        kept = probabilities * keep(probabilities)
    np.testing.assert_allclose(got, kept / kept.sum(), atol=0.03)
    assert set(np.flatnonzero(got)) <= set(np.flatnonzero(kept))


def test_top_k_of_one_is_greedy():
    greedy = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=5)
    sampled = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=5, key=KEY, temperature=2.0, top_k=1)
    np.testing.assert_array_equal(greedy.tokens, sampled.tokens)


def test_samples_of_a_prompt_are_neighbours_and_differ():
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=6, key=KEY, temperature=1.0, samples=2)
    assert got.tokens.shape == (6, 6)
    assert len({tuple(row) for row in got.tokens.tolist()}) == 6
    greedy = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=6, samples=2)
    alone = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=6)
    np.testing.assert_array_equal(greedy.tokens, jnp.repeat(alone.tokens, 2, axis=0))


def test_adapters_generate_what_their_merged_weights_generate():
    def change(path, weight, key):
        a = jax.random.normal(key, (weight.shape[0], 2))
        return LowRank(weight, a, 0.3 * jax.random.normal(key, (2, weight.shape[1])), jnp.float32(1.0))

    adapted = replace_weights(MODEL.params, ("layers/*/attention/*/kernel",), change, KEY)
    got = models.generate(MODEL.apply, adapted, PROMPTS, max_new_tokens=6)
    np.testing.assert_array_equal(
        got.tokens, models.generate(MODEL.apply, merge(adapted), PROMPTS, max_new_tokens=6).tokens
    )
    assert got.tokens.tolist() != models.generate(MODEL.apply, MODEL.params, PROMPTS, max_new_tokens=6).tokens.tolist()


def test_nearby_prompt_lengths_and_new_numbers_share_a_compilation():
    from ft_jax.models.generate import _generate

    def run(length, temperature):
        models.generate(
            MODEL,
            MODEL.params,
            PROMPTS[:, :length],
            max_new_tokens=9,
            key=KEY,
            temperature=temperature,
            top_p=temperature / 2,
        )

    run(6, 0.5)
    before = _generate._cache_size()
    run(4, 0.9)
    run(5, 1.5)
    assert _generate._cache_size() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 60}, "exceed the 64 the model takes"),
        ({"temperature": 1.0}, "needs key="),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 0}, "top_k is 0"),
        ({"attention_mask": np.zeros((3, 6), np.int32)}, "a prompt has no real token"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        models.generate(MODEL, MODEL.params, PROMPTS, **{"max_new_tokens": 4, **changes})


def test_what_is_no_decoder_is_refused():
    encoder = models.tiny_encoder(KEY)
    with pytest.raises(ValueError, match="generate needs a decoder"):
        models.generate(encoder, encoder.params, PROMPTS, max_new_tokens=4)
    classifier = models.with_classifier(MODEL, 2, KEY, "last")
    with pytest.raises(ValueError, match="generate needs a decoder"):
        models.generate(classifier, classifier.params, PROMPTS, max_new_tokens=4)
