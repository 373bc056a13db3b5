"""The loss and the metrics fit the head and the labels, or the pair is refused before anything trains."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score
from training.tiny_texts import TextModel, experiment, rows

from ft_jax.core import Outputs, make_step
from ft_jax.core.targets import binary_cross_entropy, squared_error
from ft_jax.training import Budget, Feed, OptimizerSpec, fit, prepare
from ft_jax.training.evaluate import evaluate
from ft_jax.training.metrics import default_metrics, roc_auc
from ft_jax.training.objective import target_of
from ft_jax.training.specs import Texts


@dataclasses.dataclass(frozen=True)
class Head:
    """A model of points with so many outputs."""

    outputs: int
    kind: str | None = None

    @property
    def params(self):
        return {"w": jax.random.normal(jax.random.key(self.outputs), (4, self.outputs))}

    @property
    def apply(self):
        return Apply(self.kind)


@dataclasses.dataclass(frozen=True)
class Apply:
    kind: str | None

    def __call__(self, params, batch, key=None):
        return Outputs(hidden=batch["x"], unembedding=params["w"])


def batch(labels, x=None):
    labels = np.asarray(labels)
    draw = np.random.default_rng(1).normal(size=(len(labels), *(labels.shape[1:2] if x == "tokens" else ()), 4))
    return {"x": draw.astype(np.float32), "labels": labels}


FLOATS = np.array([0.5, -1.0, 2.0], np.float32)
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], np.float32)


@pytest.mark.parametrize(
    ("labels", "head", "target"),
    [
        (np.array([0, 2, 1]), Head(3), "classes"),
        (np.array([3, 1, 2]), Head(1), "numbers"),
        (np.array([3, 1, 2]), Head(1, "regression"), "numbers"),
        (np.array([0, 1, 1]), Head(1, "regression"), "numbers"),
        (FLOATS, Head(1), "numbers"),
        (FLOATS, Head(1, "regression"), "numbers"),
        (FLOATS[:, None], Head(1), "numbers"),
        (SEVERAL, Head(3), "several classes"),
        (SEVERAL * 2.5, Head(3, "regression"), "numbers"),
        (SEVERAL, Head(3, "regression"), "numbers"),
    ],
)
def test_what_labels_are_follows_from_head_and_labels(labels, head, target):
    assert target_of(head, batch(labels)) == target


@pytest.mark.parametrize(
    ("labels", "head", "said"),
    [
        (FLOATS, Head(3), "labels are numbers of type float32 and the head has 3 outputs"),
        (np.array([0, 1, 1]), Head(1), "labels are 0 and 1 and the head has one output"),
        (SEVERAL, Head(2), "labels are 3 numbers an example and the head has 2 outputs"),
        (SEVERAL.astype(int), Head(3), "3 numbers an example, whole numbers, and the head is one of classes"),
        (SEVERAL * 2, Head(3), "from 0 to 2, and the head is one of classes"),
        (FLOATS, Head(3, "regression"), "one number an example and the regression has 3 outputs"),
        (np.zeros((3, 2, 2), int), Head(3), r"labels have shape \(3, 2, 2\), but the model predicts \(3,\)"),
    ],
)
def test_a_pair_without_a_loss_is_refused(labels, head, said):
    with pytest.raises(ValueError, match=said):
        target_of(head, batch(labels))


def reference(kind, params, data):
    """The same loss in numpy, example by example."""
    weights = data.get("weights", np.ones(len(data["x"])))
    logits = data["x"].astype(np.float64) @ np.asarray(params["w"], np.float64)
    labels = data["labels"].astype(np.float64).reshape(logits.shape)
    if kind == "numbers":
        each = np.mean((logits - labels) ** 2, axis=1)
    else:
        p = 1 / (1 + np.exp(-logits))
        each = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p), axis=1)
    return np.sum(weights * each) / np.sum(weights)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("loss", "kind", "labels"),
    [
        (squared_error, "numbers", np.array([-3.0, 1.0, 0.5, -0.25], np.float32)),
        (squared_error, "numbers", np.array([3, 1, 2, 5])),
        (squared_error, "numbers", np.arange(12, dtype=np.float32).reshape(4, 3) - 6),
        (binary_cross_entropy, "several", np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0.5], [1, 1, 1]], np.float32)),
    ],
)
def test_losses_are_the_weighted_means_that_numpy_makes(loss, kind, labels, accumulate):
    head = Head(labels.shape[1] if labels.ndim == 2 else 1)
    data = {**batch(labels), "weights": np.array([1.0, 0.0, 2.0, 0.5], np.float32)}
    program = make_step(loss(head.apply), optax.sgd(0.1), accumulate=accumulate)
    state = program.init(head.params, jax.random.key(0))
    metrics = program.step(state, jax.tree.map(jnp.asarray, data))[1]
    np.testing.assert_allclose(metrics["loss"], reference(kind, head.params, data), rtol=2e-5)
    fewer = {name: value[[0, 2, 3]] for name, value in data.items()}
    np.testing.assert_allclose(reference(kind, head.params, fewer), reference(kind, head.params, data), rtol=1e-6)


def test_a_regression_of_texts_learns_by_squared_error(tmp_path):
    address = rows(tmp_path, "a.jsonl", (-1.5, 0.25, 3.0))
    model = TextModel("regression", None)
    made = experiment(address, model=model, out=tmp_path / "run", budget=Budget(steps=30, batch_size=16))
    result = fit(dataclasses.replace(made, optimizer=OptimizerSpec("adam", 0.01)), quiet=True)
    before, after = (result.scores[phase]["a"] for phase in ("before", "after"))
    assert after["loss"] < before["loss"] and set(after) == {"loss", "task", "mae", "rmse"}
    np.testing.assert_allclose(after["rmse"] ** 2, after["loss"], rtol=1e-4)


def test_texts_of_several_classes_train_by_binary_cross_entropy(tmp_path):
    address = rows(tmp_path, "a.jsonl", (["x"], [], ["x", "z"], ["y"]))
    result = fit(experiment(address, out=tmp_path / "run"), quiet=True)
    after = result.scores["after"]["a"]
    assert set(after) == {"loss", "task", "exact_match", "label_accuracy", "f1"}
    assert json.loads((tmp_path / "run" / "classes.json").read_text())["classes"] == ["x", "y", "z"]
    parts = list(Texts((address,), length=12).build(result.model, Feed(8))[0].evaluations["a"])
    labels, logits = [], []
    for one in parts:
        keep = one["weights"] > 0
        labels.append(one["labels"][keep])
        logits.append(np.asarray(result.model.apply(result.params, one).logits)[keep])
    labels, said = np.concatenate(labels), np.concatenate(logits) > 0
    np.testing.assert_allclose(after["f1"], f1_score(labels, said, average="micro", zero_division=0), atol=1e-6)
    np.testing.assert_allclose(after["exact_match"], np.mean((labels == said).all(axis=1)), atol=1e-6)
    np.testing.assert_allclose(after["label_accuracy"], np.mean(labels == said), atol=1e-6)


def test_negative_whole_numbers_of_a_regression_are_refused_and_not_left_out(tmp_path):
    address = rows(tmp_path, "a.jsonl", (-1, 2, 3))
    with pytest.raises(ValueError, match=r"whole number -1 as its label.*make the labels of a regression floats"):
        prepare(experiment(address, model=TextModel("regression", None)))


def test_labels_beyond_0_and_1_of_several_classes_are_refused(tmp_path):
    made = rows(tmp_path, "a.jsonl", ([0.5, 1.0, 0.0],))
    prepare(experiment(made))
    with pytest.raises(ValueError, match="from 0 to 2, and the head is one of classes"):
        prepare(experiment(rows(tmp_path, "b.jsonl", ([0.5, 2.0, 0.0],))))


def test_a_set_without_a_class_is_refused_for_roc_auc_before_the_run(tmp_path):
    address = rows(tmp_path, "a.jsonl", ("a", "b", "c"))
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    records = [{**one, "label": "b"} if one["label"] == "c" else one for one in records]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    made = experiment(address, out=tmp_path / "run", metrics={"auc": roc_auc()})
    with pytest.raises(ValueError, match=r"metric 'auc' can't be made of .*has no example of class 2; take another"):
        fit(made, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_fails_does_so_in_one_sentence_with_its_cause():
    head = Head(3)
    program = make_step(squared_error(head.apply), optax.sgd(0.1))
    state = program.init(head.params, jax.random.key(0))
    data = {**batch(np.zeros((4, 3), np.float32))}
    with pytest.raises(ValueError, match="roc_auc needs every class, and the set has no examples of class 0"):
        evaluate(program, state, [data], {"auc": roc_auc()})


def test_default_metrics_go_by_what_labels_are():
    whole = {"labels": np.array([1, 2])}
    assert set(default_metrics(whole)) == {"accuracy"} and set(default_metrics(whole, "numbers")) == {"mae", "rmse"}


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [((0.5, -1.5), 1), ((["x"], ["y", "z"]), 3), (([1, 0], [1, 1]), 2), (("a", "b"), 2), ((0, 3), 4)],
)
def test_a_head_for_the_data_has_as_many_outputs_as_its_labels_need(tmp_path, labels, outputs):
    assert Texts((rows(tmp_path, "a.jsonl", labels),)).outputs() == outputs
