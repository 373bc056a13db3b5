"""A head that grows with the classes of a stream: what stays keeps weights, moments and memories, on every road."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import points, same_bits
from training.tiny_texts import TextModel, rows

from ft_jax import data
from ft_jax.cli import main
from ft_jax.core import Method
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Task, Use, fit
from ft_jax.training.continual import matrix_of
from ft_jax.training.experiences import Experiences
from ft_jax.training.prepare import prepare
from ft_jax.training.report import write_report
from ft_jax.training.serving import load_run, predict
from ft_jax.training.specs import Perceptron, Pretrained, Untrained

GROUPS = ((7, 3), (0, 1), (9, 2))
ARRIVED = ("3", "7", "0", "1", "2", "9")
HIDDEN = -1e9


@dataclasses.dataclass(frozen=True)
class AtZero:
    """A perceptron whose head begins at zero, so that it does not depend on how many outputs it has."""

    classes: int = 6

    def build(self, key):
        model = Perceptron(widths=(16,), classes=self.classes).build(key)
        return dataclasses.replace(
            model, params={**model.params, "head": jax.tree.map(jnp.zeros_like, model.params["head"])}
        )


@dataclasses.dataclass(frozen=True)
class AllAtOnce:
    """The experiences of a growing head, as tasks of one that has all outputs from the start."""

    grows: Experiences

    def build(self, model, feed):
        for task in self.grows.build(model, feed):
            yield dataclasses.replace(task, outputs=None, classes=())


def masked():
    """Hides the outputs of classes that have not come, whose number is ``masked.known``."""

    def forward(inner):
        def hidden(params, batch, context):
            outputs = inner(params, batch, context)
            absent = jnp.arange(6) >= context.hyper["masked"]["known"]
            return dataclasses.replace(outputs, bias=outputs.bias + jnp.where(absent, HIDDEN, 0.0))

        return hidden

    return Method("masked", hyper={"known": 2.0}, forward=forward)


def come(moment):
    """Two more classes after each task."""
    if moment.kind == "task":
        return moment.state.with_hyper({"masked.known": 2.0 + float(moment.state.hyper["masked"]["known"])})


STREAM = Experiences("digits", groups=GROUPS, heads="grow")
REPLAY = Use("incremental.replay", capacity=60, size=8)


def experiment(**changes) -> Experiment:
    made = Experiment(
        name="growing",
        model=Perceptron(widths=(16,)),
        data=STREAM,
        method=(Use("incremental.ewc", weight=1.0), REPLAY),
        optimizer=OptimizerSpec("adam", 3e-3),
        budget=Budget(steps=12, batch_size=16),
        evaluation=EvaluationSpec(every=6, metric="accuracy", mode="max", memories=2),
        log_every=1,
    )
    return dataclasses.replace(made, **changes)


def events(run) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "event" and line["cause"] == "heads"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(experiment(), run=tmp_path_factory.mktemp("whole") / "run", quiet=True)


def test_a_grown_head_is_the_masked_one_that_had_all_outputs_from_the_start(tmp_path):
    own = fit(experiment(model=AtZero(), method=(REPLAY,)), run=tmp_path / "own", quiet=True)
    all_at_once = experiment(model=AtZero(), data=AllAtOnce(STREAM), method=(masked(), REPLAY))
    other = fit(all_at_once, run=tmp_path / "other", quiet=True, callbacks=[come])
    for part in ("params", "opt_state"):
        one, two = getattr(own.state, part), getattr(other.state, part)
        assert jax.tree.structure(one) == jax.tree.structure(two)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    for name, scores in own.scores["after"].items():
        assert scores["accuracy"] == other.scores["after"][name]["accuracy"]
    same_bits(own.state.memory[REPLAY.name]["buffer"], other.state.memory[REPLAY.name]["buffer"])


def test_it_grows_at_the_start_of_an_experience_compiles_once_a_size_and_says_so(whole):
    assert whole.params["head"]["kernel"].shape == (16, 6) and whole.compilations == 3
    first, second = events(whole.run)
    assert [first["step"], second["step"]] == [12, 24]
    assert first["message"] == "the head has 4 outputs, before it had 2: 2 new for 0, 1; the state of the others stays"
    assert whole.state.memory["incremental.ewc"]["fisher"]["head"]["kernel"].shape == (16, 6)


def test_moments_and_memories_of_what_was_there_stay(tmp_path):
    seen = {}

    def look(moment):
        seen[moment.kind, moment.step] = jax.tree.map(np.asarray, moment.state.replace(key=None, frozen=None))

    # A rate of 0 moves nothing, so that after one more step the weights are those of the moment before.
    still = OptimizerSpec("sgd", 0.0, options={"momentum": 1.0})
    made = experiment(
        optimizer=still, evaluation=EvaluationSpec(every=1, memories=1), budget=Budget(steps=2, batch_size=16)
    )
    fit(made, run=tmp_path, quiet=True, callbacks=[look])
    before, after = seen["task", 2], seen["evaluation", 3]
    kept = before.params["model"]["head"]["kernel"]
    np.testing.assert_array_equal(after.params["model"]["head"]["kernel"][:, :2], kept)
    fisher = [one.memory["incremental.ewc"]["fisher"]["head"]["kernel"] for one in (before, after)]
    np.testing.assert_array_equal(fisher[1][:, :2], fisher[0])
    assert np.any(fisher[0]) and not np.any(fisher[1][:, 2:])
    anchor = after.memory["incremental.ewc"]["anchor"]["head"]["kernel"]
    np.testing.assert_array_equal(anchor, after.params["model"]["head"]["kernel"])
    assert int(after.memory[REPLAY.name]["seen"]) == 48


class Stop(Exception):
    """A run that dies."""


@pytest.mark.parametrize(("kind", "step"), [("evaluation", 6), ("task", 12), ("evaluation", 18), ("task", 24)])
def test_a_run_that_dies_goes_on_in_the_same_bits(whole, tmp_path, kind, step):
    def stop(moment):
        if (moment.kind, moment.step) == (kind, step):
            raise Stop

    with pytest.raises(Stop):
        fit(experiment(), run=tmp_path / "run", quiet=True, callbacks=[stop])
    again = fit(experiment(), run=tmp_path / "run", quiet=True)
    same_bits(again.state, whole.state)
    assert again.scores == whole.scores and again.model.classes == ARRIVED
    assert [line["step"] for line in events(tmp_path / "run")] == [12, 24]


def test_the_console_counts_the_steps_of_the_tasks_that_have_come(tmp_path, capsys):
    made = experiment(method=(), budget=Budget(steps=2, batch_size=16, tasks=2), evaluation=EvaluationSpec())
    fit(made, run=tmp_path)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ") and " of " in line]
    assert told[0].startswith("step 1 of 2 ") and told[-1].startswith("step 4 of 4 ")


def test_a_finished_run_is_there_again(whole):
    again = fit(experiment(), run=whole.run, quiet=True)
    assert again.status == "finished" and again.compilations == 0
    same_bits(again.state, whole.state)


@pytest.mark.parametrize("parallelism", ["pmap", "mesh(2,1,2)"])
def test_devices_do_not_change_it(whole, tmp_path, parallelism):
    made = experiment(parallelism=parallelism, method=(REPLAY,))
    found = fit(made, run=tmp_path / "many", quiet=True)
    single = fit(experiment(method=(REPLAY,)), run=tmp_path / "one", quiet=True)
    for a, b in zip(jax.tree.leaves(found.state.params), jax.tree.leaves(single.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_members_grow_together(tmp_path):
    made = experiment(method=(Use("ensemble.members", count=2), Use("ensemble.own_start"), REPLAY))
    found = fit(made, run=tmp_path, quiet=True)
    assert found.state.params["model"]["head"]["kernel"].shape == (2, 16, 6)


@pytest.mark.parametrize(
    "use",
    [
        *(Use(f"incremental.{name}") for name in ("lwf", "mas", "synaptic_intelligence")),
        Use("incremental.balanced_replay", capacity=40, size=8),
        Use("incremental.er_ace", capacity=40, size=8),
        Use("incremental.der", capacity=40, size=8),
        Use("incremental.agem", capacity=40, size=8),
        Use("incremental.gem", tasks=3, capacity=16),
        Use("incremental.icarl", capacity=40, size=8),
        Use("incremental.slda"),
        Use("incremental.ranpac", width=32),
    ],
    ids=lambda use: use.name,
)
def test_methods_go_on_over_it(tmp_path, use):
    made = experiment(method=(use,), budget=Budget(steps=3, batch_size=16), evaluation=EvaluationSpec(memories=2))
    found = fit(made, run=tmp_path, quiet=True)
    assert found.params["head"]["kernel"].shape == (16, 6) and np.isfinite(found.scores["after"]["9-2"]["loss"])


def test_the_report_has_the_scores_of_what_had_come_and_no_forward_transfer(whole, tmp_path):
    names, matrix = matrix_of(whole.scores)
    assert names == ["7-3", "0-1", "9-2"]
    assert np.isnan(matrix[1, 1]) and np.isnan(matrix[0, 2]) and not np.isnan(np.tril(matrix[1:])).any()
    page = write_report([whole.run], tmp_path / "report.html").read_text()
    assert "Tasks in turn: accuracy" in page and "forgetting" in page and "forward transfer" not in page
    assert "the head has 6 outputs, before it had 4" in page and "nan" not in page.lower().replace("nano", "")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A finished run over texts whose classes came two after two."""
    place = tmp_path_factory.mktemp("texts")
    file = rows(place, "texts.jsonl", ("sad", "glad", "bad", "mad"), 160)
    made = experiment(
        model=TextAtHome(),
        data=Experiences(file, groups=(("sad", "mad"), ("glad", "bad")), heads="grow", length=12),
        method=(REPLAY,),
    )
    return fit(made, run=place / "run", quiet=True)


@dataclasses.dataclass(frozen=True)
class TextAtHome:
    """A small encoder with a head of so many classes."""

    classes: int = 2

    def build(self, key):
        return TextModel(outputs=self.classes).build(key)


def test_the_saved_model_knows_the_names_that_came(texts, tmp_path, capsys):
    kept = load_run(texts.run)
    assert kept.model.classes == ("mad", "sad", "bad", "glad")
    assert {one.label for one in predict(kept, ["a film was good", "very awful plot"])} <= set(kept.model.classes)
    assert main(["predict", str(texts.run), "the film was bad"]) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == set(kept.model.classes)
    assert main(["export", str(texts.run), "--merged", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "id2label.json").read_text())
    assert told == {"0": "mad", "1": "sad", "2": "bad", "3": "glad"}
    assert kept.model.params["head"]["kernel"].shape == (16, 4)


def test_a_model_from_files_has_a_new_head_to_grow_or_is_refused():
    assert Pretrained("hf://x/y", classes="data").for_data(STREAM).classes == 2
    assert Pretrained("hf://x/y", classes=2).for_outputs(4).classes == 4
    with pytest.raises(ValueError, match="model.classes is None, which keeps the model's own output"):
        Pretrained("hf://x/y").for_outputs(4)
    with pytest.raises(ValueError, match="has none; take a model of images"):
        Untrained(object()).for_outputs(3)


@dataclasses.dataclass(frozen=True)
class Given:
    """Tasks with heads of given sizes."""

    tasks: tuple[tuple[int, tuple[str, ...]], ...]

    def build(self, model, feed: Feed):
        return tuple(
            Task(f"task{at}", data.batches(points(30, at), feed.batch_size), {}, 30, outputs=count, classes=classes)
            for at, (count, classes) in enumerate(self.tasks)
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": dataclasses.replace(STREAM, heads="mask")}, "data.heads is 'mask'; use 'grow'"),
        ({"data": dataclasses.replace(STREAM, groups=((1,), (2, 3)))}, "'1' is the first and has one class, '1'"),
        ({"data": Given(((4, ()), (3, ())))}, "has a head of 3 outputs after one of 4"),
        ({"data": Given(((3, ("a", "b")),))}, "names 2 classes for 3 outputs of a head that grows"),
        ({"data": Given(((3, ("a", "b", "c")), (4, ("b", "a", "c", "d"))))}, "numbers its classes"),
        (
            {"method": (Use("incremental.balanced_replay", capacity=9, size=3, classes=6),)},
            "is told of 6 classes, and the head grows with those that come; leave classes out",
        ),
        (
            {
                "data": Experiences("digits", parts=5),
                "method": (Use("incremental.balanced_replay", capacity=9, size=3, classes=6),),
            },
            "has classes=6 and the model's head 10 outputs, so that it would leave some out; leave classes out",
        ),
        ({"optimizer": OptimizerSpec("adam", schedule="cosine")}, "give budget.tasks and budget.steps"),
    ],
)
def test_what_can_not_grow_is_refused_in_a_sentence_before_training(changes, said):
    with pytest.raises(ValueError, match=said) as refused:
        prepare(experiment(**changes))
    assert str(refused.value).count("\n") == 0


def test_a_head_kept_in_singular_directions_does_not_grow(tmp_path):
    made = experiment(method=(Use("incremental.osf", targets="*/head/kernel"),), budget=Budget(steps=1, batch_size=16))
    with pytest.raises(ValueError, match=r"can't grow, for a method keeps head/kernel in a form"):
        fit(made, run=tmp_path, quiet=True)
