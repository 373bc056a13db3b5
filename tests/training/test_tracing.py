"""What a run will do is traced for every shape it will meet before it starts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Linear, Points, experiment, same_bits
from training.tiny_texts import TextModel, rows
from training.tiny_texts import experiment as texts

from ft_jax import data
from ft_jax.core import Method
from ft_jax.training import Budget, EvaluationSpec, Use, fit, prepare
from ft_jax.training.tracing import memories, set_batches

NAMES = ("neg", "neu", "pos")


def fails_at(time):
    """A method that can't take rows of that length."""

    def loss(inner):
        def checked(params, batch, context):
            if batch["input_ids"].shape[1] == time:
                raise ValueError(f"no rows of {time}")
            return inner(params, batch, context)

        return checked

    return Method(name="picky", loss=loss)


@pytest.mark.parametrize("time", [7, 9])
def test_a_method_that_fails_for_one_bucket_fails_before_the_run(tmp_path, time):
    made = texts(rows(tmp_path, "a.jsonl", NAMES), out=tmp_path / "run", texts={"buckets": (7, 9)})
    with pytest.raises(ValueError, match=f"no rows of {time}"):
        fit(dataclasses.replace(made, method=(fails_at(time),)), quiet=True)
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Later(Points):
    """Tasks of which the second has a field of another width."""

    def build(self, model, feed):
        first, second = super().build(model, feed)
        wide = data.Dataset({"x": np.ones((20, 5), np.float32), "labels": np.zeros(20, np.int32)})
        return first, dataclasses.replace(second, train=data.batches(wide, feed.batch_size))


def test_the_batches_of_later_tasks_are_traced_too():
    with pytest.raises((ValueError, TypeError), match=r"5|shape|dot"):
        prepare(experiment(data=Later(shifts=(0.0, 1.0))))


def test_all_batches_of_a_set_that_can_t_tell_its_shapes_are_looked_at():
    sizes = [3, 3, 1]
    batches = [{"x": np.zeros((size, 4)), "labels": np.zeros(size, np.int32)} for size in sizes]
    assert [len(batch["labels"]) for batch in set_batches(batches)] == [3, 1]
    batches[2]["labels"][0] = 7

    @dataclasses.dataclass(frozen=True)
    class Listed(Points):
        def build(self, model, feed):
            return tuple(dataclasses.replace(task, evaluations={"own": batches}) for task in super().build(model, feed))

    with pytest.raises(ValueError, match="label 7, but the model's head has classes 0 to 2"):
        prepare(experiment(data=Listed(), model=Linear()))


def ewc_run(tmp_path, name, buckets, **changes):
    address = rows(tmp_path, "a.jsonl", NAMES)
    return texts(
        address,
        rows(tmp_path, "b.jsonl", NAMES),
        model=TextModel(),
        out=tmp_path / name,
        texts={"buckets": buckets},
        method=(Use("incremental.ewc", weight=10.0, fisher="empirical"), Use("transfer.full")),
        budget=Budget(steps=3, batch_size=8),
        evaluation=EvaluationSpec(memories=2),
        **changes,
    )


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory):
    return fit(ewc_run(tmp_path_factory.mktemp("buckets"), "run", (7, 9)), quiet=True)


def test_ewc_remembers_batches_of_several_lengths_as_of_one(tmp_path, bucketed):
    whole = fit(ewc_run(tmp_path, "whole", ()), quiet=True)
    one, other = (run.state.memory["incremental.ewc"]["fisher"] for run in (bucketed, whole))
    largest = max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(one))
    assert largest > 0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6 * largest)


def test_ewc_with_buckets_resumes(tmp_path, bucketed):
    class Stop(Exception):
        pass

    def stop(moment):
        if moment.kind == "task":
            raise Stop

    with pytest.raises(Stop):
        fit(ewc_run(tmp_path, "cut", (7, 9)), quiet=True, callbacks=[stop])
    same_bits(fit(ewc_run(tmp_path, "cut", (7, 9)), quiet=True).state.params, bucketed.state.params)


def test_memories_are_as_long_as_the_longest_shape_whatever_was_drawn():
    short, long = ({"input_ids": np.ones((2, n), np.int32), "labels": np.zeros(2, np.int32)} for n in (3, 6))
    made = memories([short, short], [short, long])
    assert made["input_ids"].shape == (2, 2, 6) and made["labels"].shape == (2, 2)
    assert made["attention_mask"].sum() == 12


def test_what_is_checked_before_a_run_is_not_traced_again_in_it(tmp_path):
    traced = []

    def counting(inner):
        def loss(params, batch, context):
            traced.append(context.train)
            return inner(params, batch, context)

        return loss

    counted = Method(name="counting", loss=counting)
    result = fit(dataclasses.replace(experiment(), method=(counted,), out=str(tmp_path / "run")), quiet=True)
    assert result.compilations == 1
    # Once for the step, and once for the evaluations before and after it.
    assert traced.count(True) == 1 and traced.count(False) == 1
