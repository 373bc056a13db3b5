import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.adaptive import plateau
from ft_jax.core import make_step, optimizer, supervised

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "plateau.json").read_text())


def program_with(method):
    return make_step(supervised(tiny.apply), optimizer(optax.sgd, learning_rate=0.1), method)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['mode']}-{case['factor']}")
def test_the_rate_follows_torchs_rule(case):
    method = plateau(
        "metric",
        mode=case["mode"],
        factor=case["factor"],
        patience=case["patience"],
        threshold=case["threshold"],
        cooldown=case["cooldown"],
        minimum=case["min_lr"],
    )
    program = program_with(method)
    state = program.init(tiny.params(), jax.random.key(0))
    after_eval, rates = jax.jit(program.after_eval), []
    for metric in case["metrics"]:
        state = after_eval(state, {"metric": jnp.float32(metric)})
        rates.append(float(state.hyper["optimizer"]["learning_rate"]))
    np.testing.assert_allclose(rates, case["rates"], rtol=1e-5)
    assert len(set(rates)) > 1 and after_eval._cache_size() == 1


def test_it_can_change_any_number_of_the_composition():
    rule = plateau("loss", number="adaptive.plateau.threshold", patience=0, factor=0.5)
    program = program_with(rule)
    state = program.init(tiny.params(), jax.random.key(0))
    for loss in (1.0, 2.0):
        state = program.after_eval(state, {"loss": jnp.float32(loss)})
    assert float(state.hyper["adaptive.plateau"]["threshold"]) == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (plateau("auc"), "watches metric 'auc', but the evaluation gave loss"),
        (plateau(number="optimizer.rate"), "no number 'optimizer.rate'; the nearest are"),
    ],
)
def test_a_metric_or_number_that_is_not_there_is_refused(method, said):
    program = program_with(method)
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match=said):
        program.after_eval(state, {"loss": jnp.float32(1)})
    with pytest.raises(ValueError, match="got mode 'up'"):
        plateau(mode="up")
    assert list(program.after_eval) == [method.name]
