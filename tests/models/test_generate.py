"""Generation over a cache equals the slow way, and samples what it says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ft_jax import models
from ft_jax.core.grafts import Graft, graft
from ft_jax.core.params import replace_weights
from ft_jax.core.weights import LowRank, merge
from ft_jax.core.weights.operator import operator
from ft_jax.models.generation.generate import _generate, _sharding_of
from ft_jax.models.generation.stops import stops_of

KEY = jax.random.key(0)
MODEL = models.tiny_decoder(KEY)
PROMPTS = jax.random.randint(jax.random.key(1), (3, 6), 1, 32)
MASK = jnp.array([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]])


APPLY = jax.jit(MODEL.apply)


def filled(ids):
    """A batch of one sequence, filled up on the right, which a causal network can't see: one compilation for all."""
    return {"input_ids": jnp.array([ids + [0] * (16 - len(ids))])}


def slow(prompt, new, params=MODEL.params):
    """Greedy continuation and its log-probabilities without a cache."""
    ids, scores = list(map(int, prompt)), []
    for _ in range(new):
        logits = APPLY(params, filled(ids)).logits[0, len(ids) - 1]
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
    free = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7)
    stop = int(free.tokens[1, 2])
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7, stop_tokens=(stop,), pad_token=31)
    for i in range(3):
        row = free.tokens[i].tolist()
        length = row.index(stop) + 1 if stop in row else 7
        assert int(got.lengths[i]) == length
        assert got.tokens[i].tolist() == row[:length] + [31] * (7 - length)
        np.testing.assert_array_equal(got.log_probabilities[i, length:], np.zeros(7 - length))
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


def test_a_repetition_penalty_is_that_of_transformers():
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7, repetition_penalty=1.8)
    plain = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7)
    assert got.tokens.tolist() != plain.tokens.tolist()
    for i, row in enumerate(rows()):
        ids = list(map(int, row))
        for _ in range(7):
            logits = np.array(APPLY(MODEL.params, filled(ids)).logits[0, len(ids) - 1])
            # RepetitionPenaltyLogitsProcessor: gather, divide or multiply by the sign, scatter.
            own = logits[ids]
            logits[ids] = np.where(own < 0, own * 1.8, own / 1.8)
            ids.append(int(logits.argmax()))
        assert got.tokens[i].tolist() == ids[len(row) :]


def test_each_prompt_has_its_own_stops():
    free = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7).tokens.tolist()
    ends = [(free[0][1],), (), (free[2][4],)]
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7, stop_tokens=ends)
    for i, end in enumerate(ends):
        expected = free[i].index(end[0]) + 1 if end else 7
        assert int(got.lengths[i]) == expected
    pairs = [[[free[0][2], free[0][3]]], [[free[1][0]], [99, 99]], [[free[2][1], 31, 31]]]
    got = models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7, stop_sequences=pairs, samples=2)
    for i, sequences in enumerate(pairs):
        expected = next((n for n in range(1, 8) if any(free[i][:n][-len(stop) :] == stop for stop in sequences)), 7)
        assert got.lengths[2 * i : 2 * i + 2].tolist() == [expected] * 2


def test_stops_of_all_prompts_and_senseless_ones():
    assert stops_of((5, 6), [], 3).sequences.tolist() == [[[5], [6]]]
    assert stops_of((), (), 3).sequences.shape == (1, 0, 1)
    both = stops_of((7,), [[[1, 2]], []], 2).sequences.tolist()
    assert both == [[[-1, 7], [1, 2]], [[-1, 7], [-1, -1]]]
    with pytest.raises(ValueError, match="a stop sequence is empty"):
        stops_of((), [[]], 1)
    with pytest.raises(ValueError, match="stop_tokens are of 2 prompts and the batch has 3"):
        stops_of([(1,), (2,)], (), 3)


WINDOWED = models.decoder(
    models.DecoderConfig(
        vocabulary=32, width=16, layers=3, heads=2, key_value_heads=1, head_width=8, mlp_width=32, positions=64,
        window=4, windowed=(True, False),
    ),
    KEY,
)  # fmt: skip


def test_rings_of_sliding_windows_give_what_the_whole_sequence_gives():
    got = models.generate(WINDOWED, WINDOWED.params, PROMPTS, MASK, max_new_tokens=10)
    apply = jax.jit(WINDOWED.apply)
    for i, row in enumerate(rows()):
        ids = list(map(int, row))
        for _ in range(10):
            ids.append(int(jnp.argmax(apply(WINDOWED.params, filled(ids)).logits[0, len(ids) - 1])))
        assert got.tokens[i].tolist() == ids[len(row) :]


def test_a_sharded_cache_gives_what_one_device_gives():
    model = models.decoder(dataclasses.replace(MODEL.config, key_value_heads=2), KEY)
    prompts = jnp.concatenate([PROMPTS, PROMPTS[:1]])
    alone = models.generate(model, model.params, prompts, max_new_tokens=6, key=KEY, temperature=1.0, samples=2)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"))
    assert _sharding_of(jax.device_put(model.params, NamedSharding(mesh, P())), 4, 2).spec == P(
        ("fsdp",), None, "tensor"
    )
    params = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, P("fsdp", "tensor") if x.ndim == 2 else P())), model.params
    )
    follows = models.generate(model, params, prompts, max_new_tokens=6, key=KEY, temperature=1.0, samples=2)
    np.testing.assert_array_equal(alone.tokens, follows.tokens)
    np.testing.assert_allclose(alone.log_probabilities, follows.log_probabilities, atol=1e-5)
    told = models.generate(
        model, params, prompts, max_new_tokens=6, key=KEY, temperature=1.0, samples=2,
        cache_sharding=NamedSharding(mesh, P(None, "fsdp", "tensor")),
    )  # fmt: skip
    np.testing.assert_array_equal(alone.tokens, told.tokens)


@operator()
class Tokens(Graft):
    """Two virtual tokens before the prompt."""

    rows: jax.Array

    def prepend(self, embedded):
        return jnp.broadcast_to(self.rows, (embedded.shape[0], *self.rows.shape)).astype(embedded.dtype)


@operator()
class Prefix(Graft):
    """Three keys and values before all others."""

    keys: jax.Array
    values_: jax.Array

    def sources(self, attention, keys, values):
        return tuple(jnp.broadcast_to(x, (keys.shape[0], *x.shape)) for x in (self.keys, self.values_))


def test_virtual_tokens_and_prefixes_stay_before_the_prompt():
    draw = functools.partial(jax.random.normal, KEY)
    params = graft(MODEL.params, "embeddings", "attention.tokens", Tokens(draw((2, 16))))
    params = graft(params, "layers/1/attention", "attention.prefix", Prefix(draw((3, 1, 8)), 2 * draw((3, 1, 8))))
    got = models.generate(MODEL, params, PROMPTS, MASK, max_new_tokens=7)
    for i, row in enumerate(rows()):
        tokens, scores = slow(row, 7, params)
        assert got.tokens[i].tolist() == tokens
        np.testing.assert_allclose(got.log_probabilities[i], scores, atol=1e-5)
    assert got.tokens.tolist() != models.generate(MODEL, MODEL.params, PROMPTS, MASK, max_new_tokens=7).tokens.tolist()


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
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"samples": 0}, "samples is 0"),
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
