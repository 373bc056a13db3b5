"""Tasks one after another: how they end, what methods are shown then, and streams that are not drawn to their end."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Linear, Points, experiment, points, same_bits, stream

from ft_jax import data
from ft_jax.core import Method
from ft_jax.training import Budget, EvaluationSpec, Feed, Task, Use, fit, prepare
from ft_jax.training.experiences import Experiences
from ft_jax.training.specs import Perceptron


def lines(folder, kind):
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["kind"] == kind]


def test_a_task_ends_at_targets_on_its_own_evaluation_set(tmp_path):
    made = experiment(
        data=Points(shifts=(0.0, 4.0)),
        budget=Budget(steps=200, batch_size=8, until={"accuracy": 0.9, "max_loss": 0.6}),
        evaluation=EvaluationSpec(every=2, metric="accuracy", mode="max"),
    )
    result = fit(made, run=tmp_path, quiet=True)
    ends = [event for event in lines(tmp_path, "event") if event["cause"] == "target"]
    assert [event["message"].split(":")[0] for event in ends] == ["task shift0 ended", "task shift4 ended"]
    for name in ("shift0", "shift4"):
        own = result.scores[f"after {name}"][name]
        assert own["accuracy"] >= 0.9 and own["loss"] <= 0.6
    # The second task began below its target, however good the first one's set was.
    start = [one for one in lines(tmp_path, "evaluation") if one["step"] == ends[0]["step"] and one["set"] == "shift4"]
    assert start[0]["accuracy"] < 0.9 and ends[1]["step"] > ends[0]["step"]


@pytest.mark.parametrize(
    ("until", "told"),
    [
        ({"acuracy": 0.9}, "budget.until ends a task at 'acuracy', but the evaluation gives accuracy, loss, task"),
        ({"shift1/accuracy": 0.9}, "budget.until names the evaluation set 'shift1', but there are shift0"),
        ({"accuracy": float("nan")}, "ends a task at accuracy nan, which no metric reaches"),
    ],
)
def test_a_target_that_nothing_gives_is_refused_before_training(until, told):
    with pytest.raises((KeyError, ValueError), match=told):
        prepare(experiment(budget=Budget(steps=4, batch_size=8, until=until)))


@dataclasses.dataclass(frozen=True)
class Once:
    """Points that are seen once, each of them its place in the data."""

    count: int = 22

    def build(self, model, feed):
        made = points(self.count, 2)
        source = data.batches(made, feed.batch_size, epochs=1, shuffle=False, remainder="pad", index=True)
        once = data.evaluation_batches(made, feed.batch_size, index=True)
        return Task("online", source, {}, self.count, steps=10**6, once=once, ends=True)


def test_a_source_that_ends_ends_its_task_and_each_batch_is_tested_before_it_is_trained_on(tmp_path):
    made = experiment(data=Once(), evaluation=EvaluationSpec(every=1, metric="loss", prequential=2))
    result = fit(made, run=tmp_path, quiet=True)
    assert result.summary["steps"] == 3
    # By hand: each batch is measured by the state before its step.
    plan = prepare(made)
    state, source, expected = plan.plain.init(plan.model.params, plan.key), plan.stream[0].train, []
    for batch in source:
        found = plan.plain.evaluate(state, batch)
        expected.append((float(sum(found.terms.values())), float(np.sum(batch["weights"]))))
        state, _ = plan.plain.step(state, batch)
    told = [line["loss"] for line in lines(tmp_path, "evaluation") if line["set"] == "prequential"]
    for upto, value in enumerate(told[:3], start=1):
        window = np.asarray(expected[max(0, upto - 2) : upto])
        assert value == pytest.approx(np.sum(window[:, 0] * window[:, 1]) / np.sum(window[:, 1]), rel=1e-5)
    assert result.scores["after"]["prequential"]["loss"] == pytest.approx(told[-1])


def test_a_prequential_metric_ends_a_task_without_any_evaluation_set(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Endless:
        def build(self, model, feed):
            return Task("points", stream(points(50, 2), feed))

    budget = Budget(steps=400, batch_size=8, until={"prequential/accuracy": 0.95})
    spec = EvaluationSpec(every=5, metric="loss", prequential=4)
    result = fit(experiment(data=Endless(), budget=budget, evaluation=spec), run=tmp_path, quiet=True)
    assert result.summary["steps"] < 400 and result.scores["after"]["prequential"]["accuracy"] >= 0.95


def counting():
    """Remembers how often each example was shown at tasks' ends, and in which order."""

    def after_task(state, event):
        own, batches = state.memory["count"], event.batches
        places, weights = batches["index"].reshape(-1), batches["weights"].reshape(-1)
        seen = own["seen"].at[places].add(weights)
        later = jnp.cumsum(weights) - weights + own["shown"]
        turn = jnp.where(weights > 0, later, -1.0)
        turns = own["turn"].at[places].max(turn)
        return state.remember("count", {"seen": seen, "turn": turns, "shown": own["shown"] + weights.sum()})

    empty = {"seen": jnp.zeros(22), "turn": jnp.full(22, -1.0), "shown": jnp.float32(0)}
    return Method("count", memory=lambda params, key: empty, after_task=after_task, aligned=True)


def test_an_aligned_method_sees_every_example_exactly_once_and_in_order(tmp_path):
    made = experiment(data=Once(), method=(counting(),), evaluation=EvaluationSpec(prequential=2, memories=2))
    own = fit(made, run=tmp_path, quiet=True).state.memory["count"]
    np.testing.assert_array_equal(own["seen"], np.ones(22))
    np.testing.assert_array_equal(own["turn"], np.arange(22))


def test_a_pass_that_the_data_does_not_give_is_refused_before_training():
    @dataclasses.dataclass(frozen=True)
    class Without:
        def build(self, model, feed):
            return Task("points", stream(points(50, 2), feed))

    with pytest.raises(ValueError, match="count goes once through a task's examples, and task 'points' gives no such"):
        prepare(experiment(data=Without(), method=(counting(),), evaluation=EvaluationSpec()))


DRAWN: list[int] = []


@dataclasses.dataclass(frozen=True)
class Tasks:
    """A stream of tasks without end, drawn as they come."""

    def build(self, model, feed):
        for number in itertools.count():
            DRAWN.append(number)
            made = points(30, number, float(number))
            sets = {"test": data.evaluation_batches(points(9, 100 + number, float(number)), 9)}
            yield Task(f"task{number}", stream(made, feed), sets, 30)


def test_a_stream_without_end_is_drawn_as_far_as_it_is_trained_on_and_resumes_in_the_same_bits(tmp_path):
    DRAWN.clear()
    made = experiment(
        data=Tasks(),
        method=(Use("incremental.replay", capacity=10, size=4),),
        budget=Budget(steps=4, batch_size=8, tasks=3),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    )
    whole = fit(made, run=tmp_path / "whole", quiet=True)
    assert DRAWN == [0, 1, 2]
    assert list(whole.scores["after"]) == ["task0/test", "task1/test", "task2/test"]
    assert list(whole.scores["after task1"]) == ["task0/test", "task1/test"]

    class Stop(Exception):
        pass

    def stop(moment):
        if moment.kind == "task" and moment.task == "task1":
            raise Stop

    with pytest.raises(Stop):
        fit(made, run=tmp_path / "parts", quiet=True, callbacks=[stop])
    again = fit(made, run=tmp_path / "parts", quiet=True)
    same_bits(again.state.replace(frozen=None), whole.state.replace(frozen=None))
    assert again.scores == whole.scores


def test_a_later_task_that_changes_what_labels_mean_is_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Changing:
        def build(self, model, feed):
            for number, classes in enumerate((("a", "b", "c"), ("b", "a", "c"))):
                yield Task(f"task{number}", stream(points(30, number), feed), {}, 30, classes=classes)

    with pytest.raises(ValueError, match="task 'task0' numbers its classes a, b, c and task 'task1' b, a, c"):
        fit(experiment(data=Changing(), evaluation=EvaluationSpec()), run=tmp_path, quiet=True)


def test_a_live_file_is_followed_to_its_end_and_taken_up_again(tmp_path):
    from ft_jax.training.experiences import Live

    assert Linear is not None
    file = tmp_path / "lines.jsonl"
    rows = [json.dumps({"images": [[float(at)]], "labels": at % 2}) for at in range(7)]
    file.write_text("\n".join(rows[:5]) + "\n")
    spec = Live(str(file), end=True)
    feed = type("Feed", (), {"batch_size": 2, "processes": 1})()
    source = spec.build(None, feed)[0].train
    first, second = next(source), next(source)
    assert [*first["labels"], *second["labels"]] == [0, 1, 0, 1]
    with pytest.raises(StopIteration):
        next(source)
    place = source.get_state()
    with open(file, "a") as opened:
        opened.write("\n".join(rows[5:]) + "\n")
    again = spec.build(None, feed)[0].train
    again.set_state(place)
    assert next(again)["images"].ravel().tolist() == [4.0, 5.0]
    with open(file, "a") as opened:
        opened.write('{"images": [[1.0]], "labels": "cat"}\n')
    with pytest.raises(ValueError, match="label 'cat' is none of the classes none, so labels are their numbers"):
        next(again)


def test_more_experiences_than_classes_are_refused():
    model = Perceptron(image=(8, 8, 1), widths=(4,), classes=10).build(jax.random.key(0))
    with pytest.raises(ValueError, match="10 classes can't be dealt out to 20 experiences; give 1 to that many"):
        Experiences("digits", by="class", parts=20).build(model, Feed(8))
