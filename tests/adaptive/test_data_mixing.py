"""Online data mixing: the rewards and chances that a slow loop makes, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.adaptive import data_mixing
from ft_jax.core import Outputs, jit_step, make_step, supervised

SOURCES, ROWS, WIDTH, CLASSES = 3, 4, 5, 3
NAME = "adaptive.data_mixing"


def linear(params, batch, key=None):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


def batch_of(source, chance, seed):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(size=(ROWS, WIDTH)).astype(np.float32) * (1 + 2 * source),
        "labels": random.integers(0, CLASSES, ROWS).astype(np.int32),
        "weights": np.array([1, 1, 0.5, 0], np.float32),
        "source": np.full(ROWS, source, np.int32),
        "chance": np.full(ROWS, chance, np.float32),
    }


def slow(losses_and_draws, momentum=0.9):
    """The paper's loop, one number at a time: ``(source, chance, loss)`` of each batch."""
    rewards = [0.0] * SOURCES
    for source, chance, loss in losses_and_draws:
        rewards[source] = momentum * rewards[source] + (1 - momentum) * loss / chance
    epsilon = lambda t: min(1 / SOURCES, math.sqrt(math.log(SOURCES) / (SOURCES * max(t, 1))))  # noqa: E731
    turn = len(losses_and_draws)
    powers = [math.exp(epsilon(turn - 1) * reward) for reward in rewards]
    return rewards, [(1 - SOURCES * epsilon(turn)) * p / sum(powers) + epsilon(turn) for p in powers]


def test_chances_are_those_of_the_papers_loop():
    program = make_step(supervised(linear), optax.sgd(0.1), data_mixing(linear, SOURCES))
    state = program.init({"w": 0.3 * jnp.ones((WIDTH, CLASSES)).at[0, 1].set(-1.0)}, jax.random.key(0))
    step, seen = jit_step(program.step), []
    draws = [(0, 1 / 3), (2, 1 / 3), (2, 0.5), (1, 0.2), (0, 0.31), (2, 0.45)] * 6
    for seed, (source, chance) in enumerate(draws):
        batch = batch_of(source, chance, seed)
        logits = np.asarray(batch["x"] @ np.asarray(state.params["model"]["w"]), np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        each = -logs[np.arange(ROWS), batch["labels"]]
        seen.append((source, chance, float(np.average(each, weights=batch["weights"]))))
        state, metrics = step(state, batch)
    rewards, chances = slow(seen)
    own = state.memory[NAME]
    np.testing.assert_allclose(own["rewards"], rewards, rtol=2e-5)
    np.testing.assert_allclose(own["chances"], chances, rtol=2e-5)
    np.testing.assert_allclose([metrics[f"{NAME}.chance_{at}"] for at in range(SOURCES)], chances, rtol=2e-5)
    assert own["drawn"].tolist() == [3.0 * sum(one == at for one, _ in draws) for at in range(SOURCES)]
    assert np.isclose(sum(chances), 1) and np.ptp(chances) > 0.05


def test_what_can_not_be_mixed_is_refused():
    with pytest.raises(ValueError, match="has 0 sources"):
        data_mixing(linear, 0)
    with pytest.raises(ValueError, match="momentum 1"):
        data_mixing(linear, 2, momentum=1.0)
    program = make_step(supervised(linear), optax.sgd(0.1), data_mixing(linear, SOURCES))
    state = program.init({"w": jnp.ones((WIDTH, CLASSES))}, jax.random.key(0))
    batch = batch_of(0, 0.5, 0)
    del batch["chance"]
    with pytest.raises(KeyError, match="reads 'chance' of each example, and the batch has labels, source, weights, x"):
        program.step(state, batch)
