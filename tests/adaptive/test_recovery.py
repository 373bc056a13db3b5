"""Going back to the best parameters, against a slow loop that keeps them by hand, and in runs that need it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny
from training.small import Points, experiment

from ft_jax.adaptive import recovery
from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.training import Budget, EvaluationSpec, OptimizerSpec, Use, fit


def test_it_goes_back_as_a_loop_that_keeps_the_best_by_hand_does():
    method = recovery("metric", patience=1, factor=0.5, minimum=0.03)
    program = make_step(supervised(tiny.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    state, act = program.init(tiny.params(), jax.random.key(0)), jax.jit(program.after_eval)
    best, kept, bad, rate = np.inf, None, 0, 0.1
    for at, value in enumerate((3.0, 2.0, 2.5, 2.6, 1.0, np.nan, 1.5, 1.2, 1.0, 1.3)):
        moved = jax.tree.map(lambda x, at=at: x + at, state.params)
        state = act(state.replace(params=moved), {"metric": jnp.float32(value)})
        if value < best:
            best, kept, bad = value, moved, 0
        else:
            bad += 1
        expected = moved
        if bad > 1:
            expected, bad, rate = kept, 0, max(0.03, rate / 2)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
        assert float(state.hyper["optimizer"]["learning_rate"]) == pytest.approx(rate)
    assert act._cache_size() == 1 and rate == 0.03


def test_a_run_whose_rate_is_far_too_high_recovers(tmp_path):
    steep = OptimizerSpec("sgd", 30.0)
    spec = EvaluationSpec(every=2, metric="loss")
    losses = {}
    for name, method in (("alone", ()), ("recovers", (Use("adaptive.recovery", patience=0, factor=0.2),))):
        made = experiment(
            data=Points(), method=method, optimizer=steep, evaluation=spec, budget=Budget(steps=80, batch_size=8)
        )
        losses[name] = fit(made, run=tmp_path / name, quiet=True).scores["after"]["shift0"]["loss"]
    assert losses["recovers"] < 0.6 and losses["alone"] > 6.0


def test_what_is_wrong_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="got mode 'up'; use 'min' or 'max'"):
        recovery(mode="up")
    from ft_jax.adaptive import schedule_free

    with pytest.raises(ValueError, match="adaptive.schedule_free serves other parameters than those that learn"):
        compose(recovery(), schedule_free())
    program = make_step(supervised(tiny.apply), optimizer(optax.sgd, learning_rate=0.1), recovery("auc"))
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match="watches metric 'auc', but the evaluation gave loss"):
        program.after_eval(state, {"loss": jnp.float32(1)})
