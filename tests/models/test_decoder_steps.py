"""Caches, windows and rings: tokens a few at a time give what the whole sequence gives; scanned layers are layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.core.grafts import Graft, graft
from ft_jax.core.params import replace_weights
from ft_jax.core.weights import LowRank
from ft_jax.core.weights.operator import operator
from ft_jax.models import stack_layers

KEY = jax.random.key(0)
CONFIG = models.DecoderConfig(
    vocabulary=32, width=16, layers=3, heads=2, key_value_heads=1, head_width=8, mlp_width=24, positions=64,
    window=4, windowed=(True, False), local_rope_theta=100.0, query_key_norms=True, post_norms=True,
)  # fmt: skip
MODEL = models.decoder(CONFIG, KEY)
IDS = jax.random.randint(jax.random.key(1), (2, 20), 1, 32)


@operator()
class Prompt(Graft):
    """Virtual tokens."""

    tokens: jax.Array

    def prepend(self, embedded):
        return jnp.broadcast_to(self.tokens, (embedded.shape[0], *self.tokens.shape)).astype(embedded.dtype)


@operator()
class Gate(Graft):
    """A factor on a layer's output."""

    factor: jax.Array

    def output(self, x):
        return x * self.factor


@functools.cache
def forward():
    return jax.jit(MODEL.apply)


def whole(params):
    return forward()(params, {"input_ids": IDS}).hidden


def stepped(params, sizes, ahead=0, index_of=lambda start: jnp.int32(start)):
    """Hidden states of tokens given in calls of these sizes; the ring's length."""
    apply, slots = MODEL.apply, IDS.shape[1]
    caches = apply.module(params).empty_caches(2, slots, ahead)
    held = min(cache[0].shape[1] for cache in caches.values())

    def step(ids, positions, caches, index, first):
        own = jnp.reshape(index, (-1, 1)) + jnp.arange(ids.shape[1])
        allowed = jnp.arange(slots) <= own[..., None]
        allowed = jnp.broadcast_to(allowed[:, None], (2, 1, *allowed.shape[1:]))
        return apply.module(params).step(ids, positions, allowed, caches, 0 if first else index)

    step, start, given = jax.jit(step, static_argnums=4), 0, []
    for size in sizes:
        positions = jnp.broadcast_to(jnp.arange(start, start + size), (2, size))
        hidden, caches = step(IDS[:, start : start + size], positions, caches, index_of(start), start == 0)
        given.append(hidden)
        start += size
    return jnp.concatenate(given, axis=1), held


@pytest.mark.parametrize(("sizes", "ahead"), [((7, *[1] * 13), 0), ((3, 2, 6, 5, 4), 3)])
def test_windowed_layers_hold_a_ring_and_see_what_they_should(sizes, ahead):
    got, held = stepped(MODEL.params, sizes, ahead)
    np.testing.assert_allclose(got, whole(MODEL.params), atol=1e-5)
    assert held == CONFIG.window + ahead


def test_each_row_may_be_at_a_slot_of_its_own():
    got, _ = stepped(MODEL.params, (7, 1, 2, *[1] * 10), index_of=lambda start: jnp.full((2,), start, jnp.int32))
    np.testing.assert_allclose(got, whole(MODEL.params), atol=1e-5)


def test_tokens_taken_back_leave_no_trace_in_a_ring():
    # Three tokens are drafted, two are rejected: the next step begins at the first rejected slot.
    apply, slots = MODEL.apply, 20
    caches = apply.module(MODEL.params).empty_caches(2, slots, ahead=2)

    @functools.partial(jax.jit, static_argnums=1)
    def step(ids, start, caches):
        own = start + jnp.arange(ids.shape[1])
        allowed = jnp.broadcast_to(jnp.arange(slots) <= own[:, None], (2, 1, len(own), slots))
        positions = jnp.broadcast_to(own, ids.shape)
        return apply.module(MODEL.params).step(ids, positions, allowed, caches, start)

    _, caches = step(IDS[:, :9], 0, caches)
    wrong = IDS[:, 9:12].at[:, 1:].set(5)
    _, caches = step(wrong, 9, caches)
    hidden, _ = step(IDS[:, 10:12], 10, caches)
    np.testing.assert_allclose(hidden, whole(MODEL.params)[:, 10:12], atol=1e-5)


def test_virtual_tokens_stay_in_sight_while_generating():
    prompt = Prompt(jax.random.normal(jax.random.key(2), (3, 16)))
    params = graft(MODEL.params, "embeddings", "attention.prompt", prompt)
    got, _ = stepped(params, (7, 1, 2, *[1] * 10))
    np.testing.assert_allclose(got, whole(params), atol=1e-5)
    assert not np.allclose(got[:, -1], whole(MODEL.params)[:, -1], atol=1e-2)


def adapted(params):
    def change(path, weight, key):
        a, b = jax.random.normal(key, (weight.shape[0], 2)), 0.1 * jax.random.normal(key, (2, weight.shape[1]))
        return LowRank(weight, a, b, jnp.float32(0.5), owner="transfer.lora")

    params = replace_weights(params, ("layers/*/query/kernel", "layers/*/up/kernel"), change, KEY)
    for i in range(CONFIG.layers):
        params = graft(params, f"layers/{i}", "attention.gate", Gate(jnp.float32(1 - 0.2 * i)))
    return graft(params, "embeddings", "attention.prompt", Prompt(jnp.ones((2, 16))))


def test_operators_and_grafts_scan_with_their_layers():
    params = adapted(MODEL.params)
    plain = dataclasses.replace(CONFIG, collect=("hidden", "attention"))
    scanned = dataclasses.replace(plain, scan=True, remat="dots")

    def outputs(config, params):
        def loss(params):
            outputs = models.Forward(config)(params, {"input_ids": IDS})
            return jnp.square(outputs.logits).mean(), outputs

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, expected), gradients = outputs(plain, params)
    (_, got), stacked = outputs(scanned, stack_layers(params))
    assert got.states.keys() == expected.states.keys() and "attention/2" in got.states
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got.states, expected.states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stacked, stack_layers(gradients))


def test_layers_that_differ_are_not_stacked():
    params = replace_weights(
        MODEL.params, ("layers/1/attention/query/kernel",),
        lambda path, weight, key: LowRank(weight, jnp.ones((16, 2)), jnp.ones((2, 16)), jnp.float32(1)), KEY,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"layers 0 and 1 differ \(attention/query/kernel"):
        stack_layers(params)


def test_dropout_of_scanned_layers_is_that_of_unrolled_ones():
    noisy = dataclasses.replace(CONFIG, dropout=0.3, attention_dropout=0.2)
    batch = {"input_ids": IDS}
    plain = jax.jit(models.Forward(noisy))(MODEL.params, batch, KEY).hidden
    scanned = models.Forward(dataclasses.replace(noisy, scan=True))
    np.testing.assert_allclose(jax.jit(scanned)(stack_layers(MODEL.params), batch, KEY).hidden, plain, atol=1e-5)
    assert not np.allclose(plain, whole(MODEL.params), atol=1e-2)


def test_a_scanned_model_is_drawn_as_an_unrolled_one():
    drawn = models.decoder(dataclasses.replace(CONFIG, scan=True), KEY).params
    jax.tree.map(np.testing.assert_array_equal, drawn, stack_layers(MODEL.params))


def test_half_precision_of_every_part_is_near():
    config = dataclasses.replace(
        CONFIG, experts=3, attention_softcap=5.0, logit_softcap=8.0, embedding_scale=4.0, scan=True
    )
    model = models.decoder(config, KEY)
    half = model.configure(dtype="bfloat16")
    got, expected = (jax.jit(m.apply)(m.params, {"input_ids": IDS}) for m in (half, model))
    assert got.hidden.dtype == jnp.bfloat16 and got.states["router/0"].dtype == jnp.float32
    gap = jnp.linalg.norm(got.logits - expected.logits) / jnp.linalg.norm(expected.logits)
    assert float(gap) < 0.05 and float(jnp.abs(got.logits).max()) <= 8.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"norm": "batch"}, "norm is 'batch'"),
        ({"rotary_width": 12}, "rotary_width is 12.*at most head_width, which is 8"),
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token is 3 and there are 2 experts"),
        ({"experts": 2, "gated": False}, "gated is False"),
        ({"windowed": ()}, "at least one entry"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
