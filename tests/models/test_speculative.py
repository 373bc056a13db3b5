"""Speculative decoding gives what the target model gives alone, in fewer of its passes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models

TARGET = models.tiny_decoder(jax.random.key(0))
DRAFT = models.tiny_decoder(jax.random.key(1))
NEW = {"max_new_tokens": 13, "draft_tokens": 3}
PROMPTS = jax.random.randint(jax.random.key(1), (3, 6), 1, 32)
MASK = jnp.array([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]])


def mixed(share):
    """A draft that agrees with the target on some tokens: the target with noise on its parameters."""
    leaves, outline = jax.tree.flatten(TARGET.params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [x + share * jnp.std(x) * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(outline, noisy)


def test_greedy_tokens_are_the_target_s_own_whatever_the_draft():
    alone = models.generate(TARGET, TARGET.params, PROMPTS, MASK, max_new_tokens=13)
    kept = []
    for params in (DRAFT.params, mixed(0.3), TARGET.params):
        got = models.speculate(TARGET, TARGET.params, DRAFT, params, PROMPTS, MASK, **NEW, stop_tokens=[(99,), (), ()])
        np.testing.assert_array_equal(got.generation.tokens, alone.tokens)
        np.testing.assert_array_equal(got.generation.lengths, alone.lengths)
        np.testing.assert_allclose(got.generation.log_probabilities, alone.log_probabilities, atol=1e-5)
        kept.append(int(got.accepted.sum()))
    # A draft that is the target has every guess accepted: one token by the prompt, then four a round.
    assert got.rounds.tolist() == [3, 3, 3] and got.accepted.tolist() == [9, 9, 9]
    assert kept[0] < kept[1] < kept[2]


def test_a_sequence_ends_at_its_stop_inside_a_round():
    free = models.generate(TARGET, TARGET.params, PROMPTS, MASK, max_new_tokens=13)
    ends = [(int(free.tokens[0, 2]),), (int(free.tokens[1, 0]),), ()]
    got = models.speculate(
        TARGET, TARGET.params, DRAFT, mixed(0.3), PROMPTS, MASK, **NEW, stop_tokens=ends, pad_token=31
    ).generation
    for i, end in enumerate(ends):
        row = free.tokens[i].tolist()
        length = row.index(end[0]) + 1 if end else 13
        assert int(got.lengths[i]) == length
        assert got.tokens[i].tolist() == row[:length] + [31] * (13 - length)
        np.testing.assert_allclose(got.log_probabilities[i, :length], free.log_probabilities[i, :length], atol=1e-5)
        np.testing.assert_array_equal(got.log_probabilities[i, length:], np.zeros(13 - length))


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 1.5, "top_k": 4}])
def test_samples_follow_the_target_s_distribution(options):
    """The frequencies of all continuations of three tokens against their exact probabilities."""
    vocabulary, new, count = 6, 3, 6000
    target, draft = (models.tiny_decoder(jax.random.key(seed), vocabulary=vocabulary, layers=1) for seed in (3, 4))
    prompt = jnp.array([[1, 2]])
    continuations = np.array(list(itertools.product(range(vocabulary), repeat=new)))
    whole = jnp.concatenate([jnp.repeat(prompt, len(continuations), axis=0), continuations], axis=1)
    logits = jax.jit(target.apply)(target.params, {"input_ids": whole}).logits[:, 1:-1] / options["temperature"]
    if "top_k" in options:
        least = jnp.sort(logits, axis=-1)[..., -options["top_k"], None]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits), continuations[..., None], axis=-1)[..., 0]
    expected = np.exp(np.asarray(logs, np.float64).sum(axis=1))
    got = models.speculate(
        target, target.params, draft, draft.params, jnp.repeat(prompt, count, axis=0), max_new_tokens=new,
        draft_tokens=2, key=jax.random.key(5), **options,
    )  # fmt: skip
    place = np.asarray(got.generation.tokens) @ vocabulary ** np.arange(new)[::-1]
    found = np.bincount(place, minlength=len(continuations))
    assert found[expected == 0].sum() == 0
    likely = expected * count >= 5
    observed = np.append(found[likely], found[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum()) * count
    wanted, observed = wanted[wanted > 0], observed[wanted > 0]
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    # Chi squared has mean f and variance 2f; a sampler that returned the draft's tokens is a hundred deviations off.
    freedom = len(wanted) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)
    accepted = int(got.accepted.sum()) / int(got.rounds.sum() * 2)
    assert 0.1 < accepted < 0.9


def test_windowed_targets_take_tokens_back():
    config = models.DecoderConfig(
        vocabulary=32, width=16, layers=2, heads=2, key_value_heads=1, head_width=8, mlp_width=32, positions=64,
        window=4, windowed=(True, False),
    )  # fmt: skip
    model = models.decoder(config, jax.random.key(2))
    alone = models.generate(model, model.params, PROMPTS, MASK, max_new_tokens=12)
    got = models.speculate(model, model.params, DRAFT, DRAFT.params, PROMPTS, MASK, max_new_tokens=12)
    np.testing.assert_array_equal(got.generation.tokens, alone.tokens)


def test_drafts_that_can_t_serve_are_refused():
    other = models.tiny_decoder(jax.random.key(0), vocabulary=40)
    with pytest.raises(ValueError, match="the draft has 40 tokens and the target 32"):
        models.speculate(TARGET, TARGET.params, other, other.params, PROMPTS, max_new_tokens=4)
    with pytest.raises(ValueError, match="draft_tokens is 0"):
        models.speculate(TARGET, TARGET.params, DRAFT, DRAFT.params, PROMPTS, max_new_tokens=4, draft_tokens=0)
    encoder = models.tiny_encoder(jax.random.key(0))
    with pytest.raises(ValueError, match="needs a decoder"):
        models.speculate(TARGET, TARGET.params, encoder, encoder.params, PROMPTS, max_new_tokens=4)
