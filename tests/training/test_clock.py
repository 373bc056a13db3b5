"""Speeds are those of steps that are done: the log, its mean and the summary agree."""

import itertools
import json
import time

import jax
import pytest
from training import small

from ft_jax.core import Method
from ft_jax.training import Budget, EvaluationSpec, Experiment, Use, fit

SECONDS = 0.03


def slow(inner):
    """A loss whose step takes a while on the device and none to be sent there."""

    def wait(value):
        time.sleep(SECONDS)
        return value

    def loss(params, batch, context):
        terms, outputs = inner(params, batch, context)
        held = jax.pure_callback(wait, jax.ShapeDtypeStruct((), "float32"), jax.lax.stop_gradient(terms["task"]))
        return {"task": terms["task"] + 0.0 * held}, outputs

    return loss


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("clock") / "run"
    experiment = Experiment(
        "clock",
        small.Linear(),
        small.Points(),
        method=(Method(name="mine.slow", loss=slow),),
        budget=Budget(steps=24, batch_size=10),
        evaluation=EvaluationSpec(every=12),
        log_every=1,
        out=str(out),
    )
    result = fit(experiment, quiet=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return result, [line for line in lines if line["kind"] == "train"]


def test_no_line_of_the_log_is_faster_than_the_device(run):
    _, lines = run
    rates = [line["examples_per_second"] for line in lines if "examples_per_second" in line]
    assert len(rates) > 15
    # Half a step's time is left for the thread that reads the clock.
    assert max(rates) < 10 / (SECONDS / 2)


def test_the_logs_mean_is_the_summarys_speed(run):
    result, lines = run
    gaps = [(line["seconds"] - before["seconds"], line) for before, line in itertools.pairwise(lines)]
    examples = sum(gap * line.get("examples_per_second", 0.0) for gap, line in gaps)
    mean = examples / sum(gap for gap, _ in gaps)
    assert mean == pytest.approx(result.summary["throughput"]["examples_per_second"], rel=0.1)
    assert lines[-1]["seconds"] == pytest.approx(23 * SECONDS, rel=0.6)


def test_a_population_names_its_winner_and_gives_its_state(tmp_path):
    rates = [1e-5, 0.05, 1e-4]
    experiment = Experiment(
        "winner",
        small.Linear(),
        small.Points(),
        method=(Use("tuning.population", numbers={"optimizer.learning_rate": rates}),),
        budget=Budget(steps=10, batch_size=10),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
        out=str(tmp_path),
    )
    result = fit(experiment, quiet=True)
    won = result.summary["winner"]
    assert won["trial"] == 1 and won["numbers"] == {"optimizer.learning_rate": pytest.approx(0.05)}
    assert won["value"] == max(won["values"]) == pytest.approx(max(result.scores["after"]["shift0"]["accuracy"]))
    best = jax.tree.leaves(result.best_trial().params)
    for one, all_ in zip(best, jax.tree.leaves(result.state.params), strict=True):
        assert (one == all_[1]).all()
    from ft_jax.cli.run import outcome
    from ft_jax.training.report import write_report

    page = write_report([tmp_path], tmp_path / "report.html")
    assert f"best: trial 1, optimizer.learning_rate=0.05, accuracy {won['value']:.4g}" in outcome(result, page)
    text = page.read_text()
    assert "Best: trial 1, optimizer.learning_rate=0.05" in text
    assert "accuracy by log₁₀ of optimizer.learning_rate" in text
