import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl.recorded import MASK, PAIRS, RECORD, equals, table, token_log_probabilities

from ft_jax.rl import pair_losses
from ft_jax.rl.pair_losses import LOSSES, Pair

TRL = {
    "sigmoid": "sigmoid", "length_normalised": "sigmoid_norm", "exo": "exo_pair", "nca": "nca_pair",
    "bco": "bco_pair", "sppo": "sppo_hard",
}  # fmt: skip
NUMBERS = {"beta": RECORD["beta"], "smoothing": RECORD["smoothing"], "tau": 0.05, "gamma": 0.5}


def pair_of(logits):
    own = jnp.sum(MASK * token_log_probabilities(logits), axis=1)
    reference = jnp.sum(MASK * token_log_probabilities(table("reference")), axis=1)
    tokens = jnp.sum(MASK, axis=1)
    return Pair(*(half for one in (own, reference, tokens) for half in (one[:PAIRS], one[PAIRS:])))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_its_gradient_equal_trls(name):
    loss = lambda logits: jnp.mean(LOSSES[name].value(pair_of(logits), NUMBERS))  # noqa: E731
    equals(loss, RECORD["preferences"][TRL.get(name, name)])


def test_the_recording_has_all_losses_of_trl():
    assert {TRL.get(name, name) for name in LOSSES} | {"sft"} == RECORD["preferences"].keys()


def test_the_odds_ratio_equals_trls_orpo():
    loss = lambda logits: RECORD["beta"] * jnp.mean(pair_losses.odds_ratio(pair_of(logits), NUMBERS))  # noqa: E731
    equals(loss, RECORD["reference_free"]["orpo"])


def test_simpo_equals_trls():
    # trl's gamma is divided by beta before beta multiplies the whole.
    equals(lambda logits: jnp.mean(pair_losses.simpo(pair_of(logits), NUMBERS)), RECORD["reference_free"]["simpo"])


def test_cpo_with_its_likelihood_equals_trls():
    def loss(logits):
        chosen = -jnp.sum((MASK * token_log_probabilities(logits))[:PAIRS]) / jnp.sum(MASK[:PAIRS])
        return jnp.mean(pair_losses.cpo(pair_of(logits), NUMBERS)) + chosen

    equals(loss, RECORD["reference_free"]["cpo"])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_finite_for_equal_certain_and_empty_answers(name):
    def loss(values, tokens):
        pair = Pair(values[0], values[1], *2 * [jnp.zeros(3)], *2 * [tokens])
        return jnp.sum(LOSSES[name].value(pair, NUMBERS) + pair_losses.odds_ratio(pair, NUMBERS))

    values = jnp.array([[0.0, -1e-9, -90.0], [0.0, -80.0, -1e-9]])
    value, gradient = jax.value_and_grad(loss)(values, jnp.array([0.0, 1.0, 4.0]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_dpos_gradient_is_the_probability_that_the_order_is_wrong():
    margin = jnp.array([0.7])
    slope = jax.grad(lambda m: pair_losses.bradley_terry(Pair(m, *[jnp.zeros(1)] * 5), {"beta": 2.0})[0])(margin)
    np.testing.assert_allclose(slope, -2.0 * jax.nn.sigmoid(-2.0 * margin), rtol=1e-6)
