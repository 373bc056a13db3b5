import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention.tiny import BATCH, DECODER, logits, started, trained

from ft_jax import attention
from ft_jax.attention.weighting import moved, received, selected
from ft_jax.core import make_step, supervised
from ft_jax.models import tiny_decoder

REFERENCE = tiny_decoder(jax.random.key(9))


def losses(model, params):
    log_probabilities = jax.nn.log_softmax(logits(model, params))
    return -np.take_along_axis(np.asarray(log_probabilities), np.asarray(BATCH["labels"])[..., None], 2)[..., 0]


def test_rho1_trains_on_the_tokens_with_the_most_excess_loss():
    method = attention.rho1(REFERENCE.apply, REFERENCE.params, keep=0.5)
    _, history = trained(method, DECODER, steps=1)
    weights = np.asarray(BATCH["weights"])
    own = losses(DECODER, DECODER.params)
    excess = own - losses(REFERENCE, REFERENCE.params)
    total = 0.0
    for row in range(4):
        count = int(weights[row].sum())
        best = np.argsort(-excess[row, :count])[: int(np.ceil(0.5 * count))]
        total += own[row, best].mean() * count
    np.testing.assert_allclose(history[0]["task"], total / weights.sum(), rtol=1e-5)


def test_evaluation_counts_every_token():
    method = attention.rho1(REFERENCE.apply, REFERENCE.params, keep=0.5)
    program = make_step(supervised(DECODER.apply), optax.sgd(0.1), method)
    plain = make_step(supervised(DECODER.apply), optax.sgd(0.1))
    found = jax.jit(program.evaluate)(started(method)[0], BATCH)[0]["task"]
    expected = jax.jit(plain.evaluate)(jax.jit(plain.init)(DECODER.params, jax.random.key(0)), BATCH)[0]["task"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("keep", "count"), [(0.6, 3), (0.61, 4), (0.01, 1), (1.0, 5)])
def test_the_share_kept_is_rounded_up(keep, count):
    scores = jnp.array([[0.1, 0.5, 0.4, 0.3, 0.2, 9.0]])
    counted = jnp.array([[True] * 5 + [False]])
    chosen = selected(scores, counted, jnp.float32(keep))
    assert chosen.sum() == count and chosen[0, 5] == 0 and chosen[0, 1] == 1


def test_token_weights_follow_the_attention_received():
    method = attention.token_weighting(strength=1.0)
    _, history = trained(method, DECODER, steps=1)
    outputs = jax.jit(DECODER.apply.collecting(("attention",)))(DECODER.params, BATCH)
    weights, own = np.asarray(BATCH["weights"]), losses(DECODER, DECODER.params)
    total = 0.0
    for row in range(4):
        count = int(weights[row].sum())
        importance = np.zeros(9)
        for layer in (0, 1):
            maps = np.asarray(outputs.states[f"attention/{layer}"])[row]
            for key in range(8):
                queries = [query for query in range(count) if query >= key and maps[0, query, key] > 0]
                each = [maps[head, query, key] * np.sum(maps[0, query] > 0) for head in range(2) for query in queries]
                importance[key] += np.sum(each) / max(len(each), 1) / 2
        importance[8] = 1.0
        share = importance[1:] * weights[row]
        total += np.sum(own[row] * share) / share.sum() * count
    np.testing.assert_allclose(history[0]["task"], total / weights.sum(), rtol=1e-4)


def test_even_attention_changes_no_weight():
    even = jnp.broadcast_to(jnp.tril(jnp.ones((5, 5))) / jnp.arange(1, 6)[:, None], (2, 3, 5, 5))
    np.testing.assert_allclose(received(even, jnp.ones((2, 5))), 1.0, rtol=1e-6)


def test_weights_of_a_sequence_add_up_to_what_they_did():
    weights = jnp.array([[1.0, 1.0, 0.0], [0.5, 0.5, 1.0], [1.0, 0.0, 0.0]])
    factors = jnp.array([[3.0, 1.0, 7.0], [0.0, 4.0, 2.0], [0.0, 1.0, 1.0]])
    found = moved({"weights": weights, "labels": jnp.zeros((3, 3), jnp.int32)}, factors)["weights"]
    np.testing.assert_allclose(found, [[1.5, 0.5, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize("method", ["rho1", "token_weighting"])
def test_labels_of_whole_examples_are_refused(method):
    made = attention.rho1(DECODER.apply, DECODER.params) if method == "rho1" else attention.token_weighting()
    program = make_step(supervised(DECODER.apply), optax.sgd(0.1), made)
    with pytest.raises(ValueError, match=r"needs labels \[batch, time\], but the batch has labels \(4,\)"):
        jax.eval_shape(program.step, started(made)[0], {**BATCH, "labels": jnp.zeros(4, jnp.int32)})


def test_a_share_outside_its_bounds_is_refused():
    with pytest.raises(ValueError, match=r"keep 0; give the share of tokens to train on"):
        attention.rho1(DECODER.apply, DECODER.params, keep=0)
