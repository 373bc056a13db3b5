import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.meta.choosing import Halving, Mixture, Thompson, Ucb, as_controller

ONE = jnp.ones((1,))


@functools.partial(jax.jit, static_argnums=(0, 2, 4))
def regret(controller, means, turns, key, gaussian=None):
    """The sum of what was missed in so many turns of a bandit, Bernoulli or of Gaussian noise."""
    features = jnp.ones((len(means), 1))

    def turn(record, key):
        draw, noise = jax.random.split(key)
        index = jnp.argmax(controller.scores(record, features, controller.exploration, draw)[0])
        if gaussian is None:
            reward = (jax.random.uniform(noise) < means[index]).astype(jnp.float32)
        else:
            reward = means[index] + gaussian * jax.random.normal(noise)
        return controller.learn(record, index, features, reward), means.max() - means[index]

    record = controller.start(len(means), 1)
    return jax.lax.scan(turn, record, jax.random.split(key, turns))[1].sum()


def test_regret_of_ucb_is_under_the_bound_of_its_paper():
    """Auer et al. 2002, theorem 1: ``8 Σ ln n / Δ + (1 + π²/3) Σ Δ``."""
    means, turns = jnp.array([0.9, 0.6, 0.5]), 10_000
    gaps = np.array([0.3, 0.4])
    bound = 8 * np.sum(np.log(turns) / gaps) + (1 + np.pi**2 / 3) * gaps.sum()
    by_chance = turns * gaps.sum() / 3
    assert bound < 0.3 * by_chance
    runs = jax.lax.map(lambda key: regret(Ucb(), means, turns, key), jax.random.split(jax.random.key(0), 5))
    assert float(runs.mean()) < bound


def test_regret_of_thompson_sampling_is_under_the_information_bound():
    """Russo and Van Roy 2016 (JMLR 17): ``sqrt(2 σ² K H(best) T)``, σ² the predictive variance, H at most ``ln K``."""
    count, turns, spread, noise = 5, 2000, 0.3, 0.3
    bound = np.sqrt(2 * (spread**2 + noise**2) * count * np.log(count) * turns)
    controller = Thompson(exploration=noise, ridge=(noise / spread) ** 2)

    def one(key):
        own, run = jax.random.split(key)
        return regret(controller, spread * jax.random.normal(own, (count,)), turns, run, noise)

    mean = float(jax.lax.map(one, jax.random.split(jax.random.key(1), 40)).mean())
    by_chance = turns * spread * 1.163  # the mean of the largest of five standard normals
    assert bound < 0.2 * by_chance and mean < bound


def test_without_features_the_bound_is_ucb1s():
    record, features = Ucb(ridge=1e-9).start(2, 1), jnp.ones((2, 1))
    for index, reward in ((0, 1.0), (0, 0.0), (1, 1.0)):
        record = Ucb().learn(record, index, features, reward)
    scores, means = Ucb().scores(record, features, 1.0, None)
    np.testing.assert_allclose(means, [0.5, 1.0], rtol=1e-5)
    np.testing.assert_allclose(scores, [0.5 + np.sqrt(2 * np.log(3) / 2), 1.0 + np.sqrt(2 * np.log(3))], rtol=1e-4)


def test_with_features_the_estimate_is_ridge_regression():
    generator = np.random.default_rng(0)
    x = np.concatenate([np.ones((6, 1)), generator.normal(size=(6, 2))], axis=1).astype(np.float32)
    y = generator.normal(size=6).astype(np.float32)
    controller = Ucb(ridge=0.5)
    record = controller.start(1, 3)
    for row, reward in zip(x, y, strict=True):
        record = controller.learn(record, 0, jnp.asarray(row)[None], reward)
    gram = x.T @ x + np.diag([0.5, 1.0, 1.0])
    now = np.array([[1.0, 0.3, -0.2]], np.float32)
    scores, mean = controller.scores(record, jnp.asarray(now), 0.7, None)
    np.testing.assert_allclose(mean, now @ np.linalg.solve(gram, x.T @ y), rtol=1e-4)
    width = 0.7 * np.sqrt(2 * np.log(6) * (now @ np.linalg.inv(gram) @ now.T)[0, 0])
    np.testing.assert_allclose(scores - mean, [width], rtol=1e-4)


def test_halving_keeps_the_better_half_and_gives_it_twice_the_turns():
    controller, quality = Halving(), np.array([0.1, 0.4, 0.3, 0.2])
    record, seen = controller.start(4, 1), []
    for _ in range(12):
        index = int(jnp.argmax(controller.scores(record, None, None, None)[0]))
        seen.append(index)
        record = controller.learn(record, index, None, quality[index])
    assert seen[:4] == [0, 1, 2, 3] and sorted(seen[4:8]) == [1, 1, 2, 2] and seen[8:] == [1] * 4


def test_gates_move_by_the_gradient_of_the_expected_loss():
    controller, losses = Mixture(), jnp.array([1.0, 0.2, 0.6])
    record = controller.descended(controller.start(3, 1), losses, 0.9)
    np.testing.assert_allclose(record["gates"], -0.9 * (losses - losses.mean()) / 3, rtol=1e-5)


def test_a_wrong_controller_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no controller 'thomson'; the nearest are thompson"):
        as_controller("thomson")
    with pytest.raises(ValueError, match="ridge 0"):
        Ucb(ridge=0.0)
