import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small import experiment

from ft_jax.core import UpdateEvent, catalogue
from ft_jax.training import Budget, OptimizerSpec, Use
from ft_jax.training.outcome import outcomes


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_equal_optax(schedule):
    steps, warmup = 40, 0.25
    spec = OptimizerSpec(schedule=schedule, warmup=warmup, final=0.1)
    decay = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, 0.1, 30),
        "cosine": optax.cosine_decay_schedule(1.0, 30, alpha=0.1),
    }[schedule]
    for step in range(steps):
        expected = (step + 1) / 10 if step < 10 else decay(step - 10)
        for share in (spec.share(step, steps), spec.share(jnp.int32(step), steps, jnp)):
            assert float(share) == pytest.approx(float(expected), abs=1e-6)


def test_restarts_equal_optaxs_schedules_one_after_another():
    spec = OptimizerSpec(schedule="cosine", warmup=0.25, final=0.1, restarts=2)
    turns = optax.join_schedules([optax.cosine_decay_schedule(1.0, 10, alpha=0.1)] * 3, [10, 20])
    for step in range(10, 40):
        for share in (spec.share(step, 40), spec.share(jnp.int32(step), 40, jnp)):
            assert float(share) == pytest.approx(float(turns(step - 10)), abs=1e-6)
    assert float(spec.share(39, 40)) < 0.2 < float(spec.share(20, 40)) == 1.0 and float(spec.share(40, 40)) == 0.1
    with pytest.raises(ValueError, match="optimizer.restarts is 2 of the schedule 'constant'; give 0 or more of"):
        OptimizerSpec(restarts=2).check()


def test_optimizer_numbers_are_data():
    made = OptimizerSpec("adamw", 0.1, max_norm=1.0, weight_decay=0.02, options={"b1": 0.8}).build(10)
    assert dict(made.hyper) == pytest.approx({"learning_rate": 0.1, "weight_decay": 0.02, "b1": 0.8, "max_norm": 1.0})
    params = {"w": jnp.ones(3)}
    state = made.transform.init(params)
    hyper = {"optimizer": {**made.hyper, "learning_rate": 0.0}}
    event = UpdateEvent(hyper, {}, 0, None, {}, {}, jnp.float32(0), lambda: None, lambda params: jnp.float32(0))
    updates, _ = made.transform.update({"w": jnp.ones(3)}, state, params, event=event)
    assert np.all(np.asarray(updates["w"]) == 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "a/../b"}, "can't name a folder"),
        ({"model": 3}, "experiment.model is a int without build"),
        ({"log_every": 0}, "log_every is 0"),
        ({"budget": Budget(steps=0)}, "budget.steps is 0"),
        ({"optimizer": OptimizerSpec("sgd", weight_decay=0.1)}, "optax.sgd takes no weight_decay"),
        ({"optimizer": OptimizerSpec(schedule="step")}, "use 'constant', 'linear' or 'cosine'"),
        ({"optimizer": OptimizerSpec(max_norm=0.0)}, "max_norm is 0.0"),
        ({"optimizer": OptimizerSpec(options={"beta": 1.0})}, "has no option 'beta'.*b1"),
    ],
)
def test_wrong_field_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        dataclasses.replace(experiment(), **changes).check()
    assert "\n" not in str(error.value)


def test_use_names_the_nearest_option():
    with pytest.raises(ValueError, match="transfer.lora has no option 'rnk'; the nearest are rank"):
        Use("transfer.lora", rnk=4).check()


def test_every_method_of_the_catalogue_can_be_asked_for_its_options():
    for name in catalogue:
        assert "name" in Use(name).signature().parameters


def test_expectation_that_was_not_measured_is_missed():
    found = outcomes({"accuracy": 0.5, "loss_drop": 0.1}, {"after": {"test": {"loss": 0.1}}}, "test")
    assert [str(one) for one in found] == [
        "accuracy 0.5: not measured (missed)",
        "loss_drop 0.1: not measured (missed)",
    ]


def test_best_trial_counts():
    scores = {"before": {"test": {"loss": [3.0, 3.0]}}, "after": {"test": {"loss": [2.0, None]}}}
    assert [one.met for one in outcomes({"loss_drop": 0.9, "max_loss": 2.0}, scores, "test")] == [True, True]
