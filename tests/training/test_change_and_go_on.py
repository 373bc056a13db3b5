"""Numbers change at a step and callbacks return states: nothing compiles again, and a killed run does the same."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small import experiment
from training.test_resume import lines, same_bits

from ft_jax.core import Method, Outputs, make_step, supervised
from ft_jax.training import Budget, EvaluationSpec, fit
from ft_jax.training.overrides import override

AT = {3: {"optimizer.learning_rate": 0.0}, 6: {"optimizer.learning_rate": 0.05}}


def made(**changes):
    settings = {"budget": Budget(steps=9, batch_size=8), "evaluation": EvaluationSpec(every=3), "hyper_at": AT}
    return experiment(**{**settings, **changes})


def interrupt_at(step):
    def interrupt(moment):
        if moment.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


@pytest.mark.parametrize("parallelism", ["single", "pmap", "mesh(2,2,2)"])
def test_numbers_change_at_their_step_once_without_compiling_and_a_killed_run_does_the_same(tmp_path, parallelism):
    one = made(parallelism=parallelism)
    whole = fit(one, run=tmp_path / "whole", quiet=True)
    stopped = fit(one, run=tmp_path / "stopped", quiet=True, callbacks=[interrupt_at(3)])
    assert stopped.status == "interrupted"
    resumed = fit(one, run=tmp_path / "stopped", quiet=True)
    same_bits(whole.state, resumed.state)
    assert whole.compilations == resumed.compilations == 1
    for folder in ("whole", "stopped"):
        told = [line for line in lines(tmp_path / folder, "event") if line["cause"] == "hyper_at"]
        assert [(line["step"], line["number"], line["new"]) for line in told] == [
            (3, "optimizer.learning_rate", 0.0),
            (6, "optimizer.learning_rate", pytest.approx(0.05)),
        ]
    assert float(whole.state.hyper["optimizer"]["learning_rate"]) == pytest.approx(0.05)


def test_a_rate_of_zero_between_two_steps_keeps_the_parameters_of_the_first(tmp_path):
    seen = {}

    def note(moment):
        seen[moment.step] = jax.device_get(moment.state.params)

    fit(made(method=(), optimizer=made().optimizer), run=tmp_path, quiet=True, callbacks=[note])
    same_bits(seen[3], seen[6])
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (seen[6], seen[9])), strict=True))


@pytest.mark.parametrize(
    "at, told",
    [
        (
            {9: {"optimizer.learning_rate": 0.1}},
            "hyper_at has step 9 and the run has 9 steps; give a whole number from 0",
        ),
        ({-1: {"optimizer.learning_rate": 0.1}}, "hyper_at has step -1"),
        ({"3": {"optimizer.learning_rate": 0.1}}, "hyper_at has step '3'"),
        ({3: {"optimizer.learning_rat": 0.1}}, "hyper has no number 'optimizer.learning_rat'; the nearest"),
        ({3: {"optimizer.learning_rate": float("nan")}}, "sets optimizer.learning_rate to nan; give a finite number"),
        ({3: {"optimizer.learning_rate": "1"}}, "sets optimizer.learning_rate to '1'"),
    ],
)
def test_what_can_not_change_is_refused_before_anything_is_written(at, told, tmp_path):
    with pytest.raises((ValueError, KeyError)) as refused:
        fit(made(hyper_at=at), run=tmp_path / "run", quiet=True)
    assert told in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_the_step_and_the_number():
    changed = override(made(hyper_at={}), ["--hyper_at.200.optimizer.learning_rate", "1e-4"])
    assert changed.hyper_at == {200: {"optimizer.learning_rate": 1e-4}}
    again = override(changed, ["--hyper_at.200.optimizer.learning_rate", "2e-4", "--hyper_at.300.a.b", "1"])
    assert again.hyper_at == {200: {"optimizer.learning_rate": 2e-4}, 300: {"a.b": 1.0}}
    with pytest.raises(ValueError, match="names no number at a step"):
        override(changed, ["--hyper_at.soon.optimizer.learning_rate", "1"])


def test_a_run_from_before_the_field_goes_on(tmp_path):
    one = made(hyper_at={})
    fit(one, run=tmp_path, quiet=True, callbacks=[interrupt_at(3)])
    from ft_jax.training.run_folder import read_sealed, write_sealed

    record = read_sealed(tmp_path / "experiment.json")
    del record["hyper_at"]
    write_sealed(tmp_path / "experiment.json", record)
    assert fit(one, run=tmp_path, quiet=True).status == "finished"


def test_a_callback_may_return_a_state_to_go_on_with(tmp_path):
    def halved(moment):
        if moment.step == 3:
            rate = moment.state.hyper["optimizer"]["learning_rate"]
            state = moment.state.with_hyper({"optimizer.learning_rate": rate / 2})
            return state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
        return None

    one = made(hyper_at={})
    result = fit(one, run=tmp_path, quiet=True, callbacks=[halved])
    assert result.compilations == 1
    told = [line for line in lines(tmp_path, "event") if line["cause"] == "halved"]
    assert [line["step"] for line in told] == [3, 3] and told[1]["number"] == "optimizer.learning_rate"
    other = fit(one, run=tmp_path.with_name("other"), quiet=True)
    assert float(result.state.hyper["optimizer"]["learning_rate"]) == pytest.approx(
        float(other.state.hyper["optimizer"]["learning_rate"]) / 2
    )


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda state: 3, "callback wrong returned a int; return a state, or nothing"),
        (lambda state: state.replace(step=state.step + 1), "a state of another step"),
        (lambda state: state.replace(params=jax.tree.map(lambda x: x[:1], state.params)), "keep every leaf's shape"),
        (lambda state: state.replace(frozen=jax.tree.map(jnp.copy, state.params)), "other frozen parameters"),
    ],
)
def test_a_callback_that_returns_something_else_ends_the_run_in_a_sentence(make, told, tmp_path):
    def wrong(moment):
        return make(moment.state)

    with pytest.raises(ValueError, match=told):
        fit(made(hyper_at={}), run=tmp_path, quiet=True, callbacks=[wrong])


def test_a_task_ends_with_a_list_of_batches_as_with_a_stack():
    def apply(params, batch, key=None):
        return Outputs(hidden=batch["x"], unembedding=params["w"])

    def remember(state, event):
        return state.remember("mine", jnp.mean(event.batches["x"], axis=(1, 2)))

    method = Method("mine", memory=lambda params, key: jnp.zeros(3), after_task=remember)
    program = make_step(supervised(apply), optax.sgd(0.1), method)
    state = program.init({"w": jnp.eye(2)}, jax.random.key(0))
    batches = [{"x": jnp.full((4, 2), float(i)), "labels": jnp.zeros(4, int)} for i in range(3)]
    whole = {name: jnp.stack([batch[name] for batch in batches]) for name in batches[0]}
    one, other = program.after_task(state, batches), program.after_task(state, whole)
    np.testing.assert_array_equal(one.memory["mine"], other.memory["mine"])
    assert one.memory["mine"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="the batches of a task are of one shape"):
        program.after_task(state, [batches[0], {"x": jnp.ones((3, 2)), "labels": jnp.zeros(3, int)}])
