import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rl.recorded import MASK, RECORD, equals, table, token_log_probabilities

from ft_jax.rl import policy_losses

CASES = RECORD["policy"]["losses"]
ADVANTAGES = jnp.array(RECORD["policy"]["advantages"])[:, None]
MOST = MASK.shape[1] + 1 - RECORD["prompt"]


def old():
    return token_log_probabilities(table("old"))


def entropies(logits):
    every = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.sum(jnp.exp(every) * every, axis=-1)


def loss(logits, *, over, level="token", high=0.28, kl=0.0, kept=None, weights=1.0, surrogate=None):
    own = token_log_probabilities(logits)
    ratio = policy_losses.log_ratios(own, old(), MASK, level)
    if surrogate is None:
        per_token = policy_losses.clipped(ratio, ADVANTAGES, 0.2, high)
    else:
        per_token = surrogate(ratio, own)
    per_token = per_token * weights
    if kept is not None:
        per_token = per_token * policy_losses.high_entropy(entropies(logits), MASK, kept)
    if kl:
        per_token = per_token + kl * policy_losses.divergence(own, token_log_probabilities(table("reference")))
    return jnp.sum(policy_losses.averaging(MASK, over, MOST) * per_token)


def cispo(ratio, own):
    return policy_losses.cispo(ratio, ADVANTAGES, own, 1.5)


def sapo(ratio, own):
    return policy_losses.sapo(ratio, ADVANTAGES)


def sampler_weights():
    return policy_losses.truncated(old(), token_log_probabilities(table("sampler")), MASK, 1.5)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("grpo", {"over": "answers"}),
        ("grpo_kl", {"over": "answers", "kl": 0.1}),
        ("bnpo", {"over": "tokens"}),
        ("dr_grpo", {"over": "length"}),
        ("dapo", {"over": "tokens"}),
        ("cispo", {"over": "tokens", "surrogate": cispo}),
        ("sapo", {"over": "answers", "surrogate": sapo}),
        ("gspo", {"over": "answers", "level": "mean"}),
        ("entropy_mask", {"over": "tokens", "kept": 0.3}),
        ("truncated_importance_sampling", {"over": "tokens", "weights": sampler_weights}),
    ],
)
def test_the_loss_and_its_gradient_equal_trls(case, options):
    options = {name: value() if name == "weights" else value for name, value in options.items()}
    equals(lambda logits: loss(logits, **options), CASES[case])


def test_rloo_of_whole_answers_equals_trls():
    def rloo(logits):
        ratio = policy_losses.log_ratios(token_log_probabilities(logits), old(), MASK, "sum")
        return jnp.mean(policy_losses.clipped(ratio, ADVANTAGES, 0.2, 0.2))

    equals(rloo, CASES["rloo"])


def test_dft_equals_trls():
    def dft(logits):
        own = token_log_probabilities(logits)
        return jnp.sum(policy_losses.averaging(MASK, "tokens") * -own * jax.lax.stop_gradient(jnp.exp(own)))

    equals(dft, RECORD["dft"])


def test_an_empty_answer_counts_nothing_however_tokens_are_averaged():
    mask = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    for over in ("answers", "tokens", "length"):
        weights = policy_losses.averaging(mask, over, 3)
        assert np.isfinite(weights).all() and not weights[1].any()
    nothing = policy_losses.averaging(0 * mask, "tokens")
    assert np.isfinite(nothing).all() and not nothing.any()


def test_at_the_old_policy_every_surrogate_has_the_policy_gradient():
    logits = table("old")
    wanted = jax.grad(
        lambda x: -jnp.sum(policy_losses.averaging(MASK, "tokens") * ADVANTAGES * token_log_probabilities(x))
    )(logits)
    for surrogate in (None, cispo, sapo):
        found = jax.grad(lambda x, s=surrogate: loss(x, over="tokens", surrogate=s))(logits)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_clipping_stops_the_gradient_only_where_the_policy_went_too_far():
    slope = jax.grad(lambda x: jnp.sum(policy_losses.clipped(x, jnp.array([1.0, 1.0, -1.0, -1.0]), 0.2, 0.3)))
    far = jnp.log(jnp.array([1.31, 0.5, 0.79, 1.6]))
    assert (slope(far) != 0).tolist() == [False, True, False, True]


def test_the_clip_fraction_is_the_share_of_an_answers_tokens_without_a_gradient():
    far = 0.4 * jax.random.normal(jax.random.key(0), (4, 6))
    advantages, mask = jnp.array([[1.0], [-1.0], [0.5], [1.0]]), jnp.ones((4, 6)).at[0, 3:].set(0.0).at[3].set(0.0)
    slope = jax.grad(lambda x: jnp.sum(policy_losses.clipped(x, advantages, 0.2, 0.3)))(far)
    wanted = [np.mean(np.asarray(slope)[row][np.asarray(mask)[row] > 0] == 0) for row in range(3)]
    found = policy_losses.clip_fraction(far, advantages, 0.2, 0.3, mask)
    np.testing.assert_allclose(found[:3], wanted, rtol=1e-6)
    assert np.isnan(found[3]) and 0 < found[1] < 1
    # A ratio of a whole answer is that of each of its tokens.
    whole = policy_losses.clip_fraction(far[:, :1], advantages, 0.2, 0.3, mask)
    np.testing.assert_allclose(whole[:3], np.asarray(slope)[:3, 0] == 0)


def test_the_divergence_is_zero_only_at_the_reference():
    found = policy_losses.divergence(jnp.array([0.0, -1.0, -0.5]), jnp.array([0.0, -0.5, -1.0]))
    assert found[0] == 0 and (found[1:] > 0).all()


def test_values_are_clipped_around_the_old_ones():
    found = policy_losses.clipped_values(jnp.array([2.0]), jnp.array([0.0]), jnp.array([2.0]), 0.2)
    np.testing.assert_allclose(found, 0.5 * 1.8**2, rtol=1e-6)


def test_unknown_levels_and_averages_are_refused():
    with pytest.raises(ValueError, match="level is 'word'; use 'token', 'mean' or 'sum'"):
        policy_losses.log_ratios(MASK, MASK, MASK, "word")
    with pytest.raises(ValueError, match="over is 'words'; use 'answers', 'tokens' or 'length'"):
        policy_losses.averaging(MASK, "words")
    with pytest.raises(ValueError, match="give most=max_new_tokens"):
        policy_losses.averaging(MASK, "length")
