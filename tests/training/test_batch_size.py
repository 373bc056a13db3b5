"""The batch size as a number: a rule raises it, the state stays, each size is compiled once, a killed run goes on."""

import json

import jax
import numpy as np
import pytest
from training.small import Played, experiment, same_bits

from ft_jax.core import Method
from ft_jax.training import Budget, CheckpointSpec, Use, fit, prepare
from ft_jax.training.loop.sizes import joined
from ft_jax.training.report.data import _changed_numbers, read_run


def growing(**changes):
    """A run whose batches of 8 grow when the loss has stopped to fall by more than all of it: at every evaluation."""
    rule = Use("adaptive.plateau", metric="loss", number="budget.batch_size", factor=2.0, patience=0, threshold=0.999)
    return experiment(method=(rule,), budget=Budget(steps=16, batch_size=8, most_batch_size=32), **changes)


def told(folder, cause=None):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "event" and cause in (None, line["cause"])]


def by_hand(made, sizes):
    """The state after steps of so many of the source's batches each, without the training layer."""
    plan = prepare(made)
    source = plan.stream[0].train
    step, state = jax.jit(plan.program.step), plan.program.init(plan.model.params, plan.key)
    for size in sizes:
        parts = [next(source) for _ in range(size // 8)]
        state, _ = step(state, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return state


def test_a_plateau_raises_the_batch_size_and_the_moments_stay(tmp_path):
    made = growing()
    result = fit(made, run=tmp_path, quiet=True)
    sizes = [8] * 8 + [16] * 4 + [32] * 4  # the first evaluation is the best so far
    slow = by_hand(made, sizes)
    same_bits(slow.params, result.state.params)
    same_bits(slow.opt_state, result.state.opt_state)
    assert result.compilations == 3
    causes = [(line["step"], line["cause"]) for line in told(tmp_path) if line.get("number") == "budget.batch_size"]
    assert causes == [(step, "adaptive.plateau at evaluation") for step in (8, 12, 16)]
    effects = told(tmp_path, "budget.batch_size")
    assert [line["message"] for line in effects] == [
        "an update takes 16 examples, before it took 8; the state stays",
        "an update takes 32 examples, before it took 16; the state stays",
    ]
    drawn = _changed_numbers(read_run(tmp_path))["budget.batch_size"]
    assert drawn[:4] == [(0, 8.0), (8, 8.0), (8, 16.0), (12, 16.0)]


@pytest.mark.parametrize("every", [None, 3])
def test_a_run_that_dies_after_its_batches_grew_goes_on_in_the_same_bits(tmp_path, every):
    made = growing(checkpoints=CheckpointSpec(every=every))

    def die(moment):
        if moment.step == 16:
            raise KeyboardInterrupt

    whole = fit(made, run=tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fit(made, run=tmp_path / "dead", quiet=True, callbacks=[die])
    resumed = fit(made, run=tmp_path / "dead", quiet=True)
    assert [line["step"] for line in told(tmp_path / "dead", "resume")] == [15 if every else 12]
    same_bits(whole.state, resumed.state)
    assert whole.scores == resumed.scores
    one, other = (
        [(x["step"], x["message"]) for x in told(tmp_path / name, "budget.batch_size")] for name in ("whole", "dead")
    )
    assert one == other


def test_sizes_by_step_go_up_and_down_and_compile_once_each(tmp_path):
    sizes = {0: 16.0, 4: 8.0, 6: 16.0, 9: 21.0}
    made = experiment(
        budget=Budget(steps=12, batch_size=8, most_batch_size=24),
        hyper_at={step: {"budget.batch_size": size} for step, size in sizes.items()},
    )
    result = fit(made, run=tmp_path, quiet=True)
    slow = by_hand(made, [16] * 4 + [8] * 2 + [16] * 3 + [24] * 3)
    same_bits(slow.params, result.state.params)
    assert result.compilations == 3


def test_larger_batches_divide_over_devices(tmp_path):
    single, many = (
        fit(growing(parallelism=parallelism), run=tmp_path / parallelism, quiet=True)
        for parallelism in ("single", "pmap")
    )
    for one, other in zip(jax.tree.leaves(single.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


def test_batches_of_several_lengths_become_one():
    short, long = {"input_ids": np.array([[5, 6]])}, {"input_ids": np.array([[7, 8, 9]])}
    made = joined([short, long], padding=1)
    assert made["input_ids"].tolist() == [[5, 6, 1], [7, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": Budget(steps=4, batch_size=8, most_batch_size=12)}, "not so many times budget.batch_size 8"),
        ({"budget": Budget(epochs=4, batch_size=8, most_batch_size=16)}, "counts passes at one batch size"),
        (
            {
                "budget": Budget(steps=4, batch_size=8, most_batch_size=16),
                "method": (Use("ensemble.members", count=2),),
            },
            "ensemble.members trains several on one batch",
        ),
        ({"budget": Budget(steps=4, batch_size=8, most_batch_size=16), "data": Played()}, "the policy makes its batch"),
        ({"method": (Use("adaptive.plateau", number="budget.batch_size"),)}, "hyper has no number 'budget.batch_size'"),
    ],
)
def test_what_can_not_grow_is_refused_before_the_run(changes, sentence):
    with pytest.raises((ValueError, KeyError), match=sentence):
        prepare(experiment(**changes))


def test_a_number_that_is_no_size_is_refused(tmp_path):
    worse = Method(name="own.rule", after_eval=lambda state, event: state.with_hyper({"budget.batch_size": np.nan}))
    made = experiment(method=(worse,), budget=Budget(steps=8, batch_size=8, most_batch_size=16))
    with pytest.raises(ValueError, match=r"a controller has set budget.batch_size to nan; give its rule a bound"):
        fit(made, run=tmp_path, quiet=True)
