import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention.tiny import BATCH, DECODER, ENCODER, logits, started

from ft_jax import attention
from ft_jax.attention.sparse import ShiftedGroups
from ft_jax.core import compose
from ft_jax.models import DecoderConfig, decoder
from ft_jax.models.networks.parts.attention import attention as attend
from ft_jax.models.networks.parts.masks import Mask


@pytest.mark.parametrize("model", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_a_window_of_the_whole_sequence_changes_nothing(model):
    _, wide = started(attention.sliding_window(8), model)
    _, narrow = started(attention.sliding_window(2), model)
    expected = logits(model)
    np.testing.assert_allclose(logits(model, wide), expected, atol=1e-6)
    assert np.abs(logits(model, narrow) - expected).max() > 1e-3


def test_a_window_cuts_what_is_far():
    model = DECODER.configure(collect=("attention",))
    _, windowed = started(attention.sliding_window(3))
    maps = model.apply(windowed, {"input_ids": BATCH["input_ids"]}).states["attention/1"]
    distance = np.arange(8)[:, None] - np.arange(8)
    assert np.all((np.asarray(maps).min(axis=(0, 1)) > 0) == ((distance >= 0) & (distance < 3)))


def reference(queries, keys, values, mask, group):
    """Grouped attention by a mask over all pairs, a half of the heads after the other."""
    time, heads = queries.shape[1], queries.shape[2]
    keys, values = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (keys, values))
    allowed = jnp.broadcast_to(mask.explicit(time, time).allowed, (queries.shape[0], 1, time, time))
    halves = []
    for half, shift in ((slice(None, heads // 2), 0), (slice(heads // 2, None), group // 2)):
        place = (jnp.arange(time) + shift) // group
        own = Mask(allowed & (place[:, None] == place))
        halves.append(attend(queries[:, :, half], keys[:, :, half], values[:, :, half], own)[0])
    return jnp.concatenate(halves, axis=2)


@pytest.mark.parametrize("mask", ["causal", "padded", "segments"])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_grouped_attention_equals_full_attention_under_a_mask(mask, kv_heads):
    keys = jax.random.split(jax.random.key(0), 3)
    queries, sources, values = (
        jax.random.normal(key, (2, 10, heads, 4)) for key, heads in zip(keys, (4, kv_heads, kv_heads), strict=True)
    )
    segments = jnp.array([[1] * 4 + [2] * 6, [1] * 7 + [2] * 3])
    rules = {
        "causal": Mask(None, causal=True),
        "padded": Mask((jnp.arange(10) < jnp.array([[10], [7]]))[:, None, None], causal=True),
        "segments": Mask((segments[:, :, None] == segments[:, None])[:, None], causal=False),
    }
    found = jax.jit(lambda *given: ShiftedGroups(4).attend(attend, *given, rules[mask])[0])(queries, sources, values)
    expected = jax.jit(lambda *given: reference(*given, rules[mask], 4))(queries, sources, values)
    seen = np.arange(10) < np.array([[10], [7 if mask == "padded" else 10]])
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-6)


def test_groups_of_twice_the_length_change_nothing_and_evaluation_is_full():
    model = decoder(
        DecoderConfig(vocabulary=32, width=16, layers=2, heads=4, key_value_heads=2, head_width=4, mlp_width=16),
        jax.random.key(0),
    )
    expected = logits(model)
    for group, inside, same in ((16, True, True), (4, True, False), (4, False, True)):
        _, grouped = started(attention.shifted_sparse(group, in_evaluation=inside), model)
        gap = np.abs(logits(model, grouped) - expected)[np.asarray(BATCH["attention_mask"]) > 0].max()
        assert bool(gap < 1e-5) is same, (group, inside, gap)


def test_groups_see_a_prefix():
    method = compose(attention.shifted_sparse(16, in_evaluation=True), attention.prefix_tuning(3))
    _, both = started(method)
    _, plain = started(attention.prefix_tuning(3))
    real = np.asarray(BATCH["attention_mask"]) > 0
    np.testing.assert_allclose(logits(DECODER, both)[real], logits(DECODER, plain)[real], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: attention.sliding_window(0), "window 0; give it at least 1"),
        (lambda: attention.shifted_sparse(5), "group 5; give it an even number"),
        (lambda: attention.shifted_sparse(0), "group 0; give it an even number"),
    ],
)
def test_bad_sizes_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_maps_of_groups_are_zero_outside_them():
    model = DECODER.configure(collect=("attention",))
    method = compose(attention.shifted_sparse(4, in_evaluation=True), attention.prefix_tuning(2))
    _, grouped = started(method)
    maps = np.asarray(jax.jit(model.apply)(grouped, {"input_ids": BATCH["input_ids"]}).states["attention/0"])
    assert maps.shape == (4, 2, 8, 10)
    np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)
    place = np.arange(8)
    for head, shift in ((0, 0), (1, 2)):
        same = ((place + shift) // 4)[:, None] == (place + shift) // 4
        np.testing.assert_array_equal(maps[0, head, :, 2:] > 0, same & np.tri(8, dtype=bool))
