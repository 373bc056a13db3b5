import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from ft_jax.core import Outputs, make_step, supervised
from ft_jax.ensemble import members
from ft_jax.training import EvaluationSpec, HostMetric, evaluate
from ft_jax.training.evaluate import fill, measurer, score
from ft_jax.training.metrics import accuracy, by_class, calibration_error, f1, predict_tokens, roc_auc
from ft_jax.training.prepare import Plan
from ft_jax.training.stream import Task

CLASSES = 4


def apply(params, batch, key=None):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


def problem(count=23, classes=CLASSES):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 5)).astype(np.float32)
    labels = draw.integers(0, classes, count).astype(np.int32)
    program = make_step(supervised(apply), optax.sgd(0.1))
    state = program.init({"w": jnp.asarray(draw.normal(size=(5, classes)), jnp.float32)}, jax.random.key(0))
    return program, state, x, labels


def split(x, labels, size):
    return [{"x": x[at : at + size], "labels": labels[at : at + size]} for at in range(0, len(x), size)]


def test_scores_do_not_depend_on_how_a_set_is_batched():
    program, state, x, labels = problem()
    whole = evaluate(program, state, split(x, labels, 23))
    parts = evaluate(program, state, split(x, labels, 8))
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-6)
    logits = x @ np.asarray(state.params["model"]["w"])
    assert whole["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == labels))
    expected = np.mean(jax.nn.logsumexp(logits, axis=-1) - logits[np.arange(23), labels])
    assert whole["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_filled_batches_have_one_shape_and_count_once():
    program, state, x, labels = problem()
    shapes = []
    measure = jax.jit(measurer({"accuracy": accuracy})(program, None))

    def put(batch):
        shapes.append(batch["x"].shape)
        return batch

    scores = score(measure, state, split(x, labels, 6), {"accuracy": accuracy}, put=put, shards=4)
    assert set(shapes) == {(8, 5)} and measure._cache_size() == 1
    assert scores["accuracy"] == pytest.approx(evaluate(program, state, split(x, labels, 23))["accuracy"])


def test_filling_keeps_weights_and_repeats_parts():
    batch = {"labels": np.array([1, 2]), "weights": np.array([0.5, 1.0]), "part": {"x": np.ones((2, 3))}}
    filled = fill(batch, 4)
    assert filled["weights"].tolist() == [0.5, 1.0, 0.0, 0.0] and filled["part"]["x"].shape == (4, 3)
    unlabelled = fill({"x": np.ones((2, 3))}, 4)
    assert unlabelled["x"].shape == (4, 3) and unlabelled["weights"].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_tokens_scores_equal_those_from_whole_logits(monkeypatch):
    draw = np.random.default_rng(1)
    outputs = Outputs(
        hidden=jnp.asarray(draw.normal(size=(3, 7, 5)), jnp.float32),
        unembedding=jnp.asarray(draw.normal(size=(5, 11)), jnp.float32),
    )
    batch = {"labels": jnp.asarray(draw.integers(-1, 11, (3, 7)))}
    monkeypatch.setattr(sys.modules["ft_jax.training.metrics"], "default_chunk", lambda outputs: 3)
    scores = predict_tokens(outputs, batch)
    log_p = jax.nn.log_softmax(outputs.logits)
    expected = np.take_along_axis(np.asarray(log_p), np.maximum(batch["labels"], 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores["log_probability"], expected, rtol=1e-5)
    np.testing.assert_array_equal(scores["correct"], np.asarray(log_p).argmax(-1) == batch["labels"])


def test_host_metrics_equal_scikit_learn_on_the_whole_set():
    program, state, x, labels = problem(classes=2)
    metrics = {"f1": f1(), "roc_auc": roc_auc()}
    scores = evaluate(program, state, split(x, labels, 8), metrics)
    logits = x @ np.asarray(state.params["model"]["w"])
    assert scores["f1"] == pytest.approx(f1_score(labels, logits.argmax(-1), average="macro"))
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


def test_metrics_by_class_equal_scikit_learn():
    program, state, x, labels = problem()
    labels = np.where(labels == 1, 0, labels)  # no example of class 1
    scores = evaluate(program, state, split(x, labels, 8), by_class(CLASSES))
    said = (x @ np.asarray(state.params["model"]["w"])).argmax(-1)
    every = range(CLASSES)
    recall = recall_score(labels, said, labels=every, average=None, zero_division=np.nan)
    both = f1_score(labels, said, labels=every, average=None, zero_division=np.nan)
    np.testing.assert_allclose([scores[f"accuracy.class_{at}"] for at in every], recall, rtol=1e-6)
    np.testing.assert_allclose([scores[f"f1.class_{at}"] for at in every], both, rtol=1e-6)
    assert np.isnan(recall[1]) and list(by_class(2, ("f1",))) == ["f1.class_0", "f1.class_1"]
    with pytest.raises(ValueError, match="no metric 'roc' by class; the nearest are"):
        by_class(2, ("roc",))


def test_calibration_error_of_a_known_case():
    # Confidence 0.8 on ten examples of which six are right: the gap is 0.2.
    logits = np.log(np.tile([[0.8, 0.2]], (10, 1)))
    batch = {"labels": np.array([0] * 6 + [1] * 4)}
    assert calibration_error().score(logits, batch) == pytest.approx(0.2)


def test_members_kept_apart_are_each_scored():
    _, _, x, labels = problem()
    program = make_step(supervised(apply), optax.sgd(0.1), members(3, fusion=None))
    state = program.init({"w": jnp.eye(5, CLASSES)}, jax.random.key(0))
    scale = jnp.array([1.0, -1.0, 0.5])[:, None, None]
    state = state.replace(params={"model": {"w": state.params["model"]["w"] * scale}})
    metrics = {"accuracy": accuracy, "right": HostMetric(lambda p, batch: np.mean(p.argmax(-1) == batch["labels"]))}
    scores = evaluate(program, state, split(x, labels, 8), metrics)
    for index in range(3):
        right = np.mean((x @ np.asarray(state.params["model"]["w"][index])).argmax(-1) == labels)
        assert scores["accuracy"][index] == pytest.approx(right)
        assert scores["right"][index] == pytest.approx(right)


def test_empty_set_is_refused():
    program, state, _, _ = problem()
    with pytest.raises(ValueError, match="an evaluation set is empty"):
        evaluate(program, state, [])


def test_a_trial_that_diverged_scores_nothing_and_the_others_go_on():
    _, _, x, labels = problem(classes=2)
    lifted = make_step(supervised(apply), optax.sgd(0.1), members(2, fusion=None))
    state = lifted.init({"w": jnp.ones((5, 2))}, jax.random.key(0))
    state = state.replace(params=jax.tree.map(lambda p: p.at[1].set(jnp.nan), state.params))
    found = evaluate(lifted, state, split(x, labels, 8), {"area": roc_auc(), "f1": f1()})
    assert np.isfinite(found["area"][0]) and np.isnan(found["area"][1]) and np.isnan(found["f1"][1])


def test_a_task_watches_its_own_set_where_all_tasks_share_theirs():
    sets = {"0-1": [{}], "2-3": [{}], "all": [{}]}
    stream = tuple(Task(name, iter, sets) for name in ("0-1", "2-3"))
    plan = types.SimpleNamespace(
        experiment=types.SimpleNamespace(evaluation=EvaluationSpec()), stream=stream, sets=sets
    )
    assert [Plan.watched(plan, task) for task in (0, 1)] == ["0-1", "2-3"]
