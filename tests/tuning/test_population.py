import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.members import member
from ft_jax.ensemble import members
from ft_jax.tuning import population

RATES = [1e-3, 1e-2, 1e-1]


def build(method=None, rate=1e-3):
    build = optimizer(optax.adamw, learning_rate=rate, weight_decay=0.01)
    return make_step(supervised(tiny.apply), build, compose() if method is None else method)


def test_each_trial_is_the_run_with_its_number():
    program = build(population({"optimizer.learning_rate": RATES}))
    state, step, batch = program.init(tiny.params(), jax.random.key(0)), jax.jit(program.step), tiny.batch()
    for _ in range(4):
        state, metrics = step(state, batch)
    assert step._cache_size() == 1 and metrics["loss"].shape == (3,)
    for index, rate in enumerate(RATES):
        alone = build(rate=rate)
        other, alone_step = alone.init(tiny.params(), jax.random.key(0)), jax.jit(alone.step)
        for _ in range(4):
            other, _ = alone_step(other, batch)
        chex.assert_trees_all_close(member(state, index).params, other.params, atol=2e-6)


def test_a_population_of_ensembles_keeps_a_prediction_per_trial():
    program = build(compose(population({"optimizer.learning_rate": RATES}), members(2)))
    state = program.init(tiny.params(), jax.random.key(0))
    np.testing.assert_allclose(state.hyper["optimizer"]["learning_rate"], np.repeat(RATES, 2).reshape(3, 2))
    predictions = jax.jit(program.evaluate)(state, tiny.batch()).predictions
    assert predictions.shape == (3, tiny.BATCH, tiny.TIME, tiny.CLASSES) and program.trials == (3,)
    after = program.after_eval(state, {"loss": jnp.ones(3)})
    chex.assert_trees_all_equal_shapes(state, after)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="one value per trial"):
        population({"optimizer.learning_rate": [1.0, 2.0], "optimizer.weight_decay": [1.0]})
    with pytest.raises(ValueError, match="one value per trial"):
        population({})
    with pytest.raises(KeyError, match=r"varies 'optimizer.rate', which nothing has; the nearest are"):
        build(population({"optimizer.rate": [1.0]})).init(tiny.params(), jax.random.key(0))
