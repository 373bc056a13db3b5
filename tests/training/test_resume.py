import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from training.killed import STREAM
from training.small import TinyDecoder, Tokens, experiment, same_bits

from ft_jax.training import Budget, CheckpointSpec, EvaluationSpec, Use, fit

ROOT = Path(__file__).parents[2]


def train(folder, kill_at=None):
    """The exit status of a process that trains `STREAM`, killing itself when it makes a certain batch."""
    environment = dict(os.environ, PYTHONPATH=f"{ROOT / 'tests'}:{ROOT}", JAX_PLATFORMS="cpu")
    environment |= {} if kill_at is None else {"KILL_AT_BATCH": str(kill_at)}
    command = [sys.executable, "-m", "training.killed", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, cwd=ROOT).returncode


def lines(folder, *kinds):
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "examples_per_second", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in every if line["kind"] in kinds]


def test_run_killed_twice_and_resumed_equals_uninterrupted(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole) == 0
    assert train(killed, kill_at=14) == -signal.SIGKILL
    assert not (killed / "final.npz").exists()
    assert train(killed, kill_at=14) == -signal.SIGKILL
    assert train(killed) == 0
    with np.load(whole / "final.npz") as one, np.load(killed / "final.npz") as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    assert lines(whole, "train", "evaluation") == lines(killed, "train", "evaluation")
    causes = [line["cause"] for line in lines(killed, "event")]
    assert causes.count("resume") == 2


def test_interrupted_run_saves_and_resumes_to_the_same_bits(tmp_path):
    made = experiment(
        model=TinyDecoder(layers=1),
        data=Tokens(),
        method=(Use("transfer.lora", rank=2),),
        budget=Budget(steps=9, batch_size=8),
        evaluation=EvaluationSpec(every=2),
    )

    def interrupt(moment):
        if moment.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    whole = fit(made, run=tmp_path / "whole", quiet=True)
    stopped = fit(made, run=tmp_path / "stopped", quiet=True, callbacks=[interrupt])
    assert stopped.status == "interrupted" and int(stopped.state.step) == 4
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["status"] == "interrupted"
    resumed = fit(made, run=tmp_path / "stopped", quiet=True)
    assert resumed.status == "finished"
    same_bits(whole.state, resumed.state)
    assert whole.scores == resumed.scores


@pytest.mark.parametrize("parallelism", ["pmap", "mesh(2,2,2)"])
def test_resume_on_many_devices_equals_uninterrupted(tmp_path, parallelism):
    made = experiment(parallelism=parallelism, method=(Use("incremental.replay", capacity=16, size=8),))

    def interrupt(moment):
        if moment.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = fit(made, run=tmp_path / "whole", quiet=True)
    assert fit(made, run=tmp_path / "stopped", quiet=True, callbacks=[interrupt]).status == "interrupted"
    same_bits(whole.state, fit(made, run=tmp_path / "stopped", quiet=True).state)


def test_finished_run_gives_its_result_without_training(tmp_path):
    made = experiment()
    first = fit(made, run=tmp_path, quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    second = fit(made, run=tmp_path, quiet=True)
    assert (first.compilations, second.compilations) == (1, 0)
    assert second.status == "finished" and second.scores == first.scores
    same_bits(first.state, second.state)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.json*")}


def test_checkpoints_every_few_steps_are_kept_as_asked(tmp_path):
    made = experiment(checkpoints=CheckpointSpec(every=3, keep=2), evaluation=EvaluationSpec())
    fit(made, run=tmp_path, quiet=True)
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints" / "last").glob("[0-9]*"))
    assert steps == [9, 12]


def test_stream_of_tasks_is_measured_on_all_of_them_after_each(tmp_path):
    result = fit(STREAM, run=tmp_path, quiet=True)
    assert list(result.scores) == ["before", "after shift0", "after shift2", "after"]
    assert all(set(scores) == {"shift0", "shift2"} for scores in result.scores.values())
    assert result.scores["after"] == result.scores["after shift2"]
    remembered = jax.tree.leaves(result.state.memory["incremental.ewc"])
    assert all(np.abs(np.asarray(leaf)).sum() > 0 for leaf in remembered)
