"""A step whose loss or gradient is not finite stops the run with its batch, is skipped, or gone back from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.small import Points, arrays, experiment, points

from ft_jax import data
from ft_jax.core import Method
from ft_jax.training import Budget, CheckpointSpec, Diverged, EvaluationSpec, Task, fit

BIG = 1e30


def breaking(parts):
    """A loss that one training point makes infinite, and its gradient as well."""

    def loss(inner):
        def broken(params, batch, context):
            terms, outputs = inner(params, batch, context)
            far = jnp.sum(jnp.where(batch["x"] > BIG, batch["x"] * 1e10, 0.0))
            reached = jnp.sum(params["model"]["head"]["kernel"] ** 2)
            return {**terms, "far": jnp.where(far > 0, far * reached, 0.0)}, outputs

        return broken

    return Method("own.breaking", loss=loss)


class SpoiledAfterTwo:
    """Points in order, of which all batches but the first two break a step."""

    def build(self, model, feed):
        made = points(48, 2)
        made.columns["x"][16:, 1] = 2 * BIG
        return Task("points", data.batches(made, feed.batch_size, shuffle=False), {}, 48)


MADE = experiment(
    data=Points(spoil=2 * BIG), method=(breaking,), budget=Budget(steps=24, batch_size=8),
    checkpoints=CheckpointSpec(every=2), evaluation=EvaluationSpec(),
)  # fmt: skip


def changed(**fields):
    return experiment(**{**{name: getattr(MADE, name) for name in ("data", "method", "budget", "checkpoints",
                                                                   "evaluation")}, **fields})  # fmt: skip


def told(folder, cause):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["message"] for line in lines if line.get("cause") == cause]


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "train"]


def test_a_run_stops_with_the_batch_that_broke_it(tmp_path):
    with pytest.raises(Diverged, match=r"the loss is not finite at step \d+ \(.*, its batch is in .*\); lower") as e:
        fit(MADE, run=tmp_path, quiet=True)
    step = int(str(e.value).split("step ")[1].split()[0])
    with np.load(tmp_path / f"batch-of-step-{step}.npz") as batch:
        assert (batch["x"] > BIG).sum() == 1 and batch["labels"].shape == (8,)
    assert "\n" not in str(e.value)
    newest = max(int(path.name) for path in (tmp_path / "checkpoints" / "last").iterdir())
    assert newest < step <= newest + 2


def test_a_step_that_is_skipped_is_counted_and_changes_nothing(tmp_path):
    made = changed(nonfinite="skip")
    result = fit(made, run=tmp_path, quiet=True)
    skips = int(result.state.memory["adaptive.spike_guard"]["skipped"])
    assert result.status == "finished" and skips >= 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert sum(int(message.split()[0]) for message in told(tmp_path, "nonfinite")) == skips
    assert all("were skipped, for their gradient was not finite" in message for message in told(tmp_path, "nonfinite"))


def test_a_run_in_which_every_step_is_skipped_ends(tmp_path):
    made = changed(nonfinite="skip", data=Points(count=8, spoil=2 * BIG), checkpoints=CheckpointSpec(every=10))
    with pytest.raises(Diverged, match="steps since step 1 were skipped|10 steps since step 0 were skipped"):
        fit(made, run=tmp_path, quiet=True)
    assert "were skipped" in told(tmp_path, "nonfinite")[-1]


def test_a_run_that_goes_back_goes_on_behind_the_batch(tmp_path):
    made = changed(nonfinite="go_back", budget=Budget(steps=8, batch_size=8))
    result = fit(made, run=tmp_path, quiet=True)
    back = told(tmp_path, "nonfinite")
    assert result.status == "finished" and back
    assert all("went back to the checkpoint of step" in message for message in back)
    assert steps(tmp_path) == list(range(1, 9))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))


def test_a_run_goes_back_to_the_same_checkpoint_three_times_at_most(tmp_path):
    with pytest.raises(Diverged, match="the loss is not finite"):
        fit(changed(nonfinite="go_back", data=SpoiledAfterTwo()), run=tmp_path, quiet=True)
    back = [message for message in told(tmp_path, "nonfinite") if "went back to the checkpoint of step 2" in message]
    assert len(back) == 3


def test_a_run_without_a_checkpoint_to_go_back_to_stops(tmp_path):
    made = changed(nonfinite="go_back", data=Points(count=16, spoil=2 * BIG), checkpoints=CheckpointSpec(every=4))
    with pytest.raises(Diverged, match="the loss is not finite"):
        fit(made, run=tmp_path, quiet=True)


def test_a_stopped_run_goes_on_by_going_back(tmp_path):
    short = {"budget": Budget(steps=8, batch_size=8)}
    with pytest.raises(Diverged):
        fit(changed(**short), run=tmp_path, quiet=True)
    again = fit(changed(nonfinite="go_back", **short), run=tmp_path, quiet=True)
    whole = fit(changed(nonfinite="go_back", **short), run=tmp_path.with_name("whole"), quiet=True)
    assert again.status == "finished"
    for one, other in zip(arrays(again.state), arrays(whole.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_way_is_refused_by_name():
    with pytest.raises(ValueError, match="nonfinite is 'ignore'; use 'stop', 'skip' or 'go_back'"):
        changed(nonfinite="ignore").check()
