import dataclasses
import json

import jax
import numpy as np
import pytest
from training.small import Linear, Points, TinyDecoder, Tokens, experiment, points, same_bits

from ft_jax.core import Method
from ft_jax.training import (
    Budget,
    Diverged,
    EvaluationSpec,
    HostMetric,
    Mesh,
    OptimizerSpec,
    Use,
    fit,
    prepare,
)
from ft_jax.training.checkpoint import Checkpoints


def lines(folder, kind):
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def test_run_folder_tells_what_was_run_and_what_came_of_it(tmp_path):
    made = experiment(expect={"accuracy_gain": 0.2, "max_loss": 0.01}, budget=Budget(epochs=3, batch_size=8))
    result = fit(made, run=tmp_path, quiet=True, command=["ft-jax", "run", "points"])
    record = json.loads((tmp_path / "experiment.json").read_text())
    assert record["command"] == ["ft-jax", "run", "points"] and record["seed"] == 0 and "jax" in record["versions"]
    assert record["method"] == [{"name": "transfer.full", "options": {}}]
    train, evaluations = lines(tmp_path, "train"), lines(tmp_path, "evaluation")
    assert [line["step"] for line in train] == list(range(1, 20))
    # Steps that were done by the time the log came to them have no time of their own.
    assert train[-1]["loss"] < train[0]["loss"] and any(line.get("examples_per_second", 0) > 0 for line in train)
    assert [line["step"] for line in evaluations] == [0, 4, 8, 12, 16, 19]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["composition"] == ["transfer.full"]
    assert summary["parameters"]["leaves"] == {"model/head/kernel": 24, "model/layer/kernel": 32}
    assert [outcome.met for outcome in result.outcomes] == [True, False]
    assert list((tmp_path / "tensorboard").iterdir()) and list((tmp_path / "checkpoints" / "last").iterdir())


def test_scores_equal_those_of_the_state_alone(tmp_path):
    result = fit(experiment(), run=tmp_path, quiet=True)
    held_out = points(21, 1)
    logits = np.tanh(held_out.columns["x"] @ result.params["layer"]["kernel"]) @ result.params["head"]["kernel"]
    logits = np.asarray(logits, np.float64)
    labels = held_out.columns["labels"]
    right = np.mean(logits.argmax(-1) == labels)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    scores = result.scores["after"]["shift0"]
    assert scores["accuracy"] == pytest.approx(right)
    assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_numbers_changed_by_metrics_are_logged_and_compile_nothing(tmp_path):
    plateau = Use("adaptive.plateau", metric="shift0/loss", patience=0, threshold=0.9, factor=0.25)
    result = fit(experiment(method=(plateau,)), run=tmp_path, quiet=True)
    events = [event for event in lines(tmp_path, "event") if "number" in event]
    assert [event["step"] for event in events] == [8, 12]
    assert events[0]["number"] == "optimizer.learning_rate" and events[0]["message"].endswith("0.02 → 0.005")
    assert events[0]["cause"] == "adaptive.plateau at evaluation"
    assert float(result.state.hyper["optimizer"]["learning_rate"]) == pytest.approx(0.02 / 16)
    assert result.compilations == 1


def test_population_equals_separate_runs(tmp_path):
    rates = [0.003, 0.03]
    together = fit(
        experiment(method=(Use("tuning.population", numbers={"optimizer.learning_rate": rates}),)),
        run=tmp_path / "together",
        quiet=True,
    )
    assert together.compilations == 1
    for index, rate in enumerate(rates):
        alone = fit(experiment(hyper={"optimizer.learning_rate": rate}), run=tmp_path / str(index), quiet=True)
        for name, value in alone.scores["after"]["shift0"].items():
            assert together.scores["after"]["shift0"][name][index] == pytest.approx(value, rel=1e-4)
        mine = jax.tree.map(lambda leaf, at=index: leaf[at], together.state.params)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(alone.state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_patience_and_keep_best_end_with_the_best_state(tmp_path):
    made = experiment(
        optimizer=OptimizerSpec("sgd", 2.0),
        budget=Budget(steps=40, batch_size=8, patience=2),
        evaluation=EvaluationSpec(every=2, metric="loss", keep_best=True),
    )
    result = fit(made, run=tmp_path, quiet=True)
    measured = {line["step"]: line["loss"] for line in lines(tmp_path, "evaluation") if line["step"] > 0}
    best = min(measured, key=measured.get)
    assert max(measured) < 40 and int(result.state.step) == best
    assert result.scores["after"]["shift0"]["loss"] == pytest.approx(measured[best])
    again = fit(made, run=tmp_path, quiet=True)
    same_bits(result.state, again.state)


def test_target_ends_a_task(tmp_path):
    made = experiment(budget=Budget(steps=200, batch_size=8, target=0.6))
    result = fit(made, run=tmp_path, quiet=True)
    assert int(result.state.step) < 200 and result.scores["after"]["shift0"]["accuracy"] >= 0.6


def test_divergence_ends_in_one_sentence_and_keeps_the_last_good_checkpoint(tmp_path):
    made = experiment(optimizer=OptimizerSpec("sgd", 3e38), evaluation=EvaluationSpec(every=1))
    with pytest.raises(Diverged, match=r"the loss is not finite at step .*; lower optimizer.learning_rate") as error:
        fit(made, run=tmp_path, quiet=True)
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "diverged"
    plan = prepare(made)
    state = plan.distributed.init(plan.model.params, plan.key)
    kept, _ = Checkpoints(tmp_path / "checkpoints", ("transfer.full",), state).restore()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.params))


def test_one_diverged_trial_does_not_end_a_population(tmp_path):
    trials = Use("tuning.population", numbers={"optimizer.learning_rate": [0.02, 3e38]})
    made = experiment(method=(trials, Use("adaptive.plateau", patience=0)), optimizer=OptimizerSpec("sgd", 0.1))
    result = fit(made, run=tmp_path, quiet=True)
    losses = lines(tmp_path, "train")[-1]["loss"]
    assert result.status == "finished" and losses[1] is None and losses[0] > 0
    assert result.scores["after"]["shift0"]["loss"][1] is None
    assert float(result.state.hyper["optimizer"]["learning_rate"][1]) < 3e38  # its plateau was seen


def test_method_may_be_a_function_of_the_parts_and_read_the_model(tmp_path):
    seen = {}

    def method(parts):
        seen["classes"] = parts.model.params["head"]["kernel"].shape[1]
        seen["example"] = parts.example["x"].shape
        return Method("own", hyper={"weight": 1.0})

    fit(experiment(method=(method,), budget=Budget(steps=2, batch_size=8)), run=tmp_path, quiet=True)
    assert seen == {"classes": 3, "example": (8, 4)}


def test_teacher_is_a_model_spec_among_the_options(tmp_path):
    teacher = Use("distillation.logits", params=Linear(width=16), weight=1.0)
    result = fit(experiment(method=(teacher,), budget=Budget(steps=2, batch_size=8)), run=tmp_path, quiet=True)
    kept = jax.tree.leaves(result.state.frozen["distillation.logits"])
    assert {leaf.shape for leaf in kept} >= {(4, 16), (16, 3)}
    assert "distillation.logits" in lines(tmp_path, "train")[0]


def test_host_metric_and_own_metric_are_measured(tmp_path):
    metrics = {
        "right": HostMetric(lambda logits, batch: (logits.argmax(-1) == batch["labels"]).mean()),
        "first": lambda logits, batch: ((logits.argmax(-1) == 0).sum(), float(logits.shape[0])),
    }
    made = experiment(metrics=metrics, evaluation=EvaluationSpec(every=4, metric="right", mode="max"))
    one = fit(made, run=tmp_path / "one", quiet=True).scores["after"]["shift0"]
    many = fit(dataclasses.replace(made, parallelism="pmap"), run=tmp_path / "many", quiet=True).scores["after"][
        "shift0"
    ]
    assert one["right"] == pytest.approx(many["right"]) and 0 < one["right"] <= 1
    assert (21 * one["right"]) % 1 == pytest.approx(0, abs=1e-6)  # rows that fill the last batch are left out


def test_two_processes_cannot_have_one_run_folder(tmp_path):
    def second(moment):
        with pytest.raises(ValueError, match="in use by another process"):
            fit(experiment(), run=tmp_path, quiet=True)
        called.append(moment.step)

    called = []
    fit(experiment(), run=tmp_path, quiet=True, callbacks=[second])
    assert called == [4, 8, 12, 12]


BAD = {
    "label": ({"model": Linear(classes=2)}, "label 2, but the model's head has classes 0 to 1"),
    "metric": ({"evaluation": EvaluationSpec(metric="f1")}, "evaluation.metric is 'f1'.*accuracy"),
    "watched": ({"method": (Use("adaptive.plateau", metric="bleu"),)}, "watches metric 'bleu'"),
    "number": ({"hyper": {"optimizer.learning_rat": 1.0}}, "nearest are optimizer.learning_rate"),
    "method": ({"method": (Use("transfer.lorra"),)}, "nearest are transfer.lora"),
    "option": ({"method": (Use("transfer.lora", rnak=2),)}, "no option 'rnak'.*rank"),
    "devices": ({"parallelism": "pmap", "budget": Budget(steps=1, batch_size=12)}, "12 does not divide over 8 devices"),
    "mesh": ({"parallelism": Mesh(4, 4, 1)}, "needs 16 devices, but there are 8"),
    "micro-batches": ({"budget": Budget(steps=1, batch_size=8, accumulate=3)}, "does not divide into 3"),
    "batch": ({"budget": Budget(steps=1, batch_size=64)}, "a batch of 64 .* the data set has 50"),
    "budget": ({"budget": Budget()}, "exactly one"),
    "optimizer": ({"optimizer": OptimizerSpec("adamm")}, "nearest are adam"),
    "rate": ({"optimizer": OptimizerSpec(learning_rate=-1.0)}, "learning_rate is -1.0"),
    "length": ({"model": TinyDecoder(1), "data": Tokens(time=65)}, "65 tokens, but the model takes 64"),
    "token": ({"model": TinyDecoder(1), "data": Tokens(vocabulary=40)}, "has token 39, but the model knows 0 to 31"),
    "field": ({"model": TinyDecoder(1)}, "no 'input_ids'"),
    "terms": ({"method": (Use("adaptive.uncertainty", terms=("tsk",)),)}, "'tsk', but the loss inside it has task"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path, case):
    changes, sentence = BAD[case]
    with pytest.raises((ValueError, KeyError), match=sentence) as error:
        fit(experiment(**changes), run=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_value_that_turns_bad_later_stops_the_run_in_one_sentence(tmp_path):
    made = experiment(data=Points(spoil=float("inf")), budget=Budget(steps=12, batch_size=8))
    with pytest.raises(ValueError, match="'shift0' has a value in field 'x' that is not finite"):
        fit(made, run=tmp_path, quiet=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and "not finite" in summary["message"]


LORA = experiment(
    model=TinyDecoder(), data=Tokens(), method=(Use("transfer.lora", rank=2),), evaluation=EvaluationSpec()
)


def test_plan_counts_parameters_and_tasks_without_training():
    plan = prepare(LORA)
    counts = plan.parameters()
    assert counts["trainable"] == sum(counts["leaves"].values()) < counts["total"]
    assert all(path.endswith(("/a", "/b")) for path in counts["leaves"])
    assert plan.total_steps == 12 and plan.bytes_of_state()["params"] == 4 * counts["trainable"]
