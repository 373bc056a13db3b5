"""Batches that the policy in training makes, with a part on the host."""

import dataclasses
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Played, experiment, points, same_bits

from ft_jax.training import Budget, CheckpointSpec, Feed, Use, fit, prepare
from ft_jax.training.on_policy import Actor

RUN = experiment(data=Played(), budget=Budget(steps=12, batch_size=8), checkpoints=CheckpointSpec(every=3, keep=4))


def played(**changes):
    return dataclasses.replace(RUN, data=Played(**changes))


def test_a_policy_learns_from_what_it_did(tmp_path):
    result = fit(dataclasses.replace(RUN, budget=Budget(steps=60, batch_size=8)), run=tmp_path, quiet=True)
    assert result.scores["after"]["test"]["accuracy"] >= 0.9
    assert result.compilations == 1


def by_hand(count: int, reuse: int, behind: int):
    """The parameters after each update of a slow obvious loop: no source, no thread, no placing.

    Args:
      count: of updates.
      reuse: on each batch.
      behind: updates by which the policy that acts is behind, 0 or 1.
    """
    made = played(reuse=reuse)
    plan = prepare(made)
    task = plan.stream[0].train
    state = plan.program.init(plan.model.params, plan.key)
    ask, step = plan.ask(task), jax.jit(plan.program.step)
    states = [state]
    for update in range(count):
        if update % reuse == 0:
            actor = Actor(task, "own", ask)
            batch, _ = actor.take(states[max(0, update - behind)] if update else state)
        state, _ = step(state, batch)
        states.append(state)
    return states


@pytest.mark.parametrize(("reuse", "ahead"), [(1, False), (3, False), (1, True), (2, True)])
def test_a_batch_comes_from_the_parameters_of_its_moment(tmp_path, reuse, ahead):
    result = fit(played(reuse=reuse, ahead=ahead), run=tmp_path, quiet=True)
    wanted = by_hand(12, reuse, behind=int(ahead))[-1]
    same_bits(result.state.params, wanted.params)


@pytest.mark.parametrize("ahead", [False, True])
def test_devices_act_as_one(tmp_path, ahead):
    one = fit(played(ahead=ahead), run=tmp_path / "one", quiet=True)
    for parallelism in ("pmap", "mesh(4,2)"):
        many = fit(
            dataclasses.replace(played(ahead=ahead), parallelism=parallelism), run=tmp_path / parallelism, quiet=True
        )
        for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(many.state.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("reuse", "ahead"), [(5, False), (1, True), (2, True)])
def test_a_run_goes_on_with_the_batch_that_it_had_made(tmp_path, reuse, ahead):
    made = played(reuse=reuse, ahead=ahead)
    whole = fit(made, run=tmp_path / "whole", quiet=True)

    def stop(moment):
        if moment.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(made, run=tmp_path / "parts", quiet=True, callbacks=[stop])
    parts = fit(made, run=tmp_path / "parts", quiet=True)
    same_bits(whole.state, parts.state)


def test_the_next_batch_is_made_while_an_update_is_computed():
    begun, gate, answers = threading.Event(), threading.Event(), []

    def make(ask, given):
        answers.append(float(ask({"x": given["x"]})))
        if len(answers) == 2:
            begun.set()
            assert gate.wait(60)
        return given

    task = Played(ahead=True).build(prepare(RUN).model, Feed(8)).train
    task = dataclasses.replace(task, make=make, like={name: task.like[name] for name in ("x", "labels")})
    actor = Actor(task, "own", lambda state, batch: state.hyper)
    state = prepare(RUN).abstract.replace(params=None, frozen=None, memory={}, key=jax.random.key(0), step=jnp.int32(0))
    first, _ = actor.take(state.replace(hyper=jnp.float32(5.0)))
    assert begun.wait(60)  # the second is on its way, and the first is here
    gate.set()
    second, _ = actor.take(state.replace(hyper=jnp.float32(7.0)))
    actor.close()
    assert answers[:2] == [5.0, 5.0] and not np.array_equal(first["x"], second["x"])


@dataclasses.dataclass(frozen=True)
class Slow(Played):
    """Half of whose updates wait for a host that takes a fifth of a second."""

    def build(self, model, feed):
        task = super().build(model, feed)
        inner = task.train.make

        def make(ask, given):
            time.sleep(0.2)
            return inner(ask, given)

        return dataclasses.replace(task, train=dataclasses.replace(task.train, make=make))


@pytest.mark.parametrize("ahead", [False, True])
def test_the_log_tells_seconds_of_rollouts_and_of_updates_apart(tmp_path, ahead):
    run = dataclasses.replace(RUN, data=Slow(reuse=2, ahead=ahead), budget=Budget(steps=8, batch_size=8), log_every=2)
    fit(run, run=tmp_path, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "rollout_seconds" in line]
    # Of the updates that a line sums up one in two made a batch.
    assert len(told) >= 3 and all(line["rollout_seconds"] >= 0.09 for line in told[1:])
    assert all(line["update_seconds"] >= 0 for line in told)
    plain = fit(experiment(budget=Budget(steps=2, batch_size=8)), run=tmp_path / "plain", quiet=True)
    assert "rollout_seconds" not in (plain.run / "metrics.jsonl").read_text()


def test_what_methods_show_of_the_parameters_acts(tmp_path):
    """An adapter's view and a method's forward pass are in what is asked."""
    plan = prepare(dataclasses.replace(RUN, method=(Use("transfer.lora", rank=2, targets="model/layer/kernel"),)))
    task = plan.stream[0].train
    state = plan.program.init(plan.model.params, plan.key)
    moved = state.replace(params=jax.tree.map(lambda leaf: leaf + 1.0, state.params))
    seen = {"x": points(8, 3).columns["x"]}
    show = dataclasses.replace(
        task, act=lambda params, batch, context: context.run(plan.model.apply, params, batch).logits
    )
    asked = plan.ask(show)(moved, {**seen, "on_policy.call": np.zeros(8, np.int32)})
    merged = plan.program.parameters(moved)["model"]
    np.testing.assert_allclose(asked, plan.model.apply(merged, seen).logits, atol=1e-5)
    assert not np.allclose(asked, plan.model.apply(plan.model.params, seen).logits, atol=1e-2)


def spec(change):
    """A data spec whose one task is changed."""

    @dataclasses.dataclass(frozen=True)
    class Changed:
        def build(self, model, feed: Feed):
            task = Played().build(model, feed)
            return dataclasses.replace(task, train=change(task.train))

    return dataclasses.replace(RUN, data=Changed())


def test_what_cannot_be_is_refused_before_the_run():
    def fails(params, batch, context):
        return batch["x"] @ jnp.zeros((9, 9))

    with pytest.raises(
        ValueError, match="acting in task 'own' is not possible with on_policy.call .* contracting dimensions"
    ):
        prepare(spec(lambda task: dataclasses.replace(task, act=fails)))
    with pytest.raises(ValueError, match="tuning.population runs several trials on one batch"):
        trials = Use("tuning.population", numbers={"optimizer.learning_rate": [0.01, 0.02]})
        prepare(dataclasses.replace(RUN, method=(trials,)))
    with pytest.raises(ValueError, match="reuse is 0"):
        Played(reuse=0).build(prepare(RUN).model, Feed(8))
    with pytest.raises(
        ValueError, match="give an iterator with get_state and set_state, or an ft_jax.training.OnPolicy"
    ):
        prepare(spec(lambda task: lambda state: {}))
    with pytest.raises(ValueError, match="a batch of 6 does not divide over 8 devices"):
        six = dataclasses.replace(RUN, data=Played(count=6), parallelism="pmap")
        prepare(six)


def test_a_batch_unlike_what_was_said_is_refused(tmp_path):
    def short(task):
        return dataclasses.replace(task, make=lambda ask, given: {**task.like, "labels": np.zeros(7, np.int32)})

    with pytest.raises(
        ValueError, match=r"makes a field 'labels' that is int32\[7\], but in its like it is int32\[8\]"
    ):
        fit(spec(short), run=tmp_path / "short", quiet=True)
    other = spec(lambda task: dataclasses.replace(task, make=lambda ask, given: {"x": task.like["x"]}))
    with pytest.raises(
        ValueError, match="makes batches of x, but its like has labels, weights, x|its like has x, labels"
    ):
        fit(other, run=tmp_path / "other", quiet=True)


def test_a_source_that_ends_is_said(tmp_path):
    class Ends:
        def __init__(self, source):
            self.source, self.left = source, 3

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return next(self.source)

        def get_state(self):
            return [self.source.get_state(), self.left]

        def set_state(self, state):
            self.source.set_state(state[0])
            self.left = state[1]

    made = spec(lambda task: dataclasses.replace(task, given=Ends(task.given)))
    with pytest.raises(ValueError, match="ran out of what its policy is asked about"):
        fit(made, run=tmp_path, quiet=True)


def test_going_back_drops_what_a_broken_policy_made(tmp_path):
    def breaks(task):
        def make(ask, given):
            batch = dict(task.make(ask, given))
            calls.append(1)
            return {**batch, "weights": batch["weights"] * np.float32(1e38 if len(calls) == 5 else 1.0)}

        calls = []
        return dataclasses.replace(task, make=make, ahead=True)

    made = dataclasses.replace(spec(breaks), nonfinite="go_back")
    result = fit(made, run=tmp_path, quiet=True)
    assert result.status == "finished"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))


def test_what_is_saved_is_json_and_comes_back():
    task = Played(reuse=3).build(prepare(RUN).model, Feed(8))
    asked = lambda state, batch: {"guess": np.zeros(8, np.int32)}  # noqa: E731
    actor = Actor(task.train, "own", asked)
    batch, place = actor.take(None)
    told = json.loads(json.dumps(place.told()))
    again = Actor(Played(reuse=3).build(prepare(RUN).model, Feed(8)).train, "own", asked)
    again.resume(told)
    for _ in range(2):
        same, _ = again.take(None)
        for field in batch:
            np.testing.assert_array_equal(batch[field], same[field])
    following, _ = again.take(None)
    assert not np.array_equal(following["x"], batch["x"])
    assert told["left"] == 2 and place.anew()["batch"] is None
