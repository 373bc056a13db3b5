import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import make_step, optimizer, supervised
from ft_jax.rl import adjust


def run(method, values, mode="reward"):
    program = make_step(supervised(tiny.apply), optimizer(optax.adam, learning_rate=0.1), method)
    state = program.init(tiny.params(), jax.random.key(0))
    states = []
    for value in values:
        state, _ = program.step(state, tiny.batch())
        state = program.after_eval(state, {mode: jnp.float32(value)})
        states.append(state)
    return states


def rates(states):
    return [round(float(state.hyper["optimizer"]["learning_rate"]), 4) for state in states]


def test_numbers_move_only_where_an_evaluation_falls_short_without_a_new_best():
    method = adjust("reward", 0.9, {"optimizer.learning_rate": 0.5}, patience=2)
    states = run(method, [0.1, 0.1, 0.1, 0.2, 0.1, 0.95, 0.9, 0.9, 0.9])
    assert rates(states) == [0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    assert states[-1].hyper["rl.adjust"]["adjusted"] == 1


def test_a_loss_that_should_fall_is_watched_the_other_way():
    method = adjust("loss", 0.5, {"optimizer.learning_rate": 0.5}, mode="min")
    assert rates(run(method, [2.0, 1.0, 3.0, 0.4], "loss")) == [0.1, 0.1, 0.05, 0.05]


def test_a_bad_turn_goes_back_to_the_best_parameters_and_no_number_at_all_is_one():
    method = adjust("reward", 0.9, {}, worse=0.2)
    states = run(method, [0.5, 0.4, 0.1, float("nan")])
    best = states[0].params["model"]["head"]["kernel"]
    assert not np.array_equal(states[1].params["model"]["head"]["kernel"], best)
    for state in states[2:]:
        np.testing.assert_array_equal(state.params["model"]["head"]["kernel"], best)
    assert states[-1].hyper["rl.adjust"]["went_back"] == 2
    assert all(not leaf.any() for leaf in jax.tree.leaves(states[2].opt_state))


def test_unknown_metrics_and_numbers_are_refused():
    with pytest.raises(KeyError, match="watches 'rewards'; the nearest metrics are reward"):
        run(adjust("rewards", 1.0, {"optimizer.learning_rate": 0.5}), [0.1])
    with pytest.raises(KeyError, match=r"no number 'optimizer.rate'; the nearest are optimizer.learning_rate"):
        run(adjust("reward", 1.0, {"optimizer.rate": 0.5}), [0.1])
    with pytest.raises(ValueError, match="it would do nothing"):
        adjust("reward", 1.0, {})
    with pytest.raises(ValueError, match="mode='up'; use 'max' or 'min'"):
        adjust("reward", 1.0, {"optimizer.learning_rate": 0.5}, mode="up")
