import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention.tiny import BATCH, MASK, logits, started

from ft_jax import attention
from ft_jax.core import jit_step, make_step, supervised
from ft_jax.models import tiny_encoder, with_classifier

MODEL = with_classifier(tiny_encoder(jax.random.key(0), width=32), 2, jax.random.key(1))
COUNT = 256
IDS = jax.random.randint(jax.random.key(3), (COUNT, 8), 4, 32)
PLACES = jax.random.randint(jax.random.key(4), (COUNT,), 0, 8)
LABELS = jnp.arange(COUNT) % 2
PLANTED = {"input_ids": IDS.at[jnp.arange(COUNT), PLACES].set(1 + LABELS), "labels": LABELS}
"""Sentences of noise, in each of which one token (1 or 2) is the label."""


def test_pooling_starts_at_the_mean_of_the_real_tokens():
    batch = {"input_ids": BATCH["input_ids"], "attention_mask": MASK}
    _, pooled = started(attention.attentive_pooling(MODEL.apply), MODEL)
    np.testing.assert_allclose(logits(MODEL, pooled, batch), logits(MODEL, None, batch), atol=1e-6)
    hidden = jax.random.normal(jax.random.key(0), (4, 8, 32))
    weights = attention.pooling_of(pooled).weights(hidden, MASK)
    np.testing.assert_allclose(weights, MASK / MASK.sum(1, keepdims=True), atol=1e-6)


def test_pooling_finds_the_token_that_is_planted():
    method = attention.attentive_pooling(MODEL.apply, hidden=16)
    program = make_step(supervised(MODEL.apply), optax.adam(1e-2), method)
    state, step = jax.jit(program.init)(MODEL.params, jax.random.key(2)), jit_step(program.step)
    for _ in range(150):
        state, metrics = step(state, PLANTED)
    hidden = jax.jit(dataclasses.replace(MODEL.apply, pooling=None, kind=None))(MODEL.params, PLANTED).hidden
    own = state.params["model"]["grafts"][method.name]
    weights = own.weights(hidden, jnp.ones((COUNT, 8)))
    assert weights[jnp.arange(COUNT), PLACES].mean() > 0.5
    assert metrics["task"] < 0.3


@pytest.mark.parametrize("pooling", [None, "cls"])
def test_another_pooling_is_refused(pooling):
    model = tiny_encoder(jax.random.key(0))
    model = model if pooling is None else with_classifier(model, 2, jax.random.key(1), pooling)
    with pytest.raises(ValueError, match=f"the model's pooling is {pooling!r}; build it with"):
        attention.attentive_pooling(model.apply)
