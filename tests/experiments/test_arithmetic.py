"""The experiment of sums with a verifiable reward: what is held out, and that all of its runs can be made."""

import json

import pytest

from experiments.rl import arithmetic
from ft_jax.training.prepare import prepare


def test_no_sum_that_is_asked_for_is_held_out():
    shown, hidden = ({tuple(map(int, pair)) for pair in arithmetic.sums(held_out)} for held_out in (False, True))
    assert len(hidden) == arithmetic.HELD_OUT and not shown & hidden


def test_a_question_has_its_answer():
    row = json.loads(json.dumps(arithmetic.asked(17, 25)))
    assert row["answer"] == 42 and "17 + 25" in row["prompt"][0]["content"]


@pytest.mark.parametrize("name", [pytest.param("smollm2", marks=pytest.mark.slow), "experiment", *arithmetic.baselines])
def test_every_run_traces_as_it_is_written(name):
    runs = {"smollm2": arithmetic.smollm2, "experiment": arithmetic.experiment, **arithmetic.baselines}
    plan = prepare(runs[name], outline=True)
    assert plan.total_steps == runs[name].budget.steps and plan.shapes
