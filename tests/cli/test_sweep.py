import os
import re
import signal
import subprocess
import sys
import time

import optuna
import pytest

from ft_jax.cli import main
from ft_jax.cli.experiments import load
from ft_jax.tuning.search.shared_study import open_storage

FILE = '''"""A perceptron learns digits."""
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.training.specs import Images, Perceptron

experiment = Experiment(
    name="digits",
    model=Perceptron(image=(8, 8, 1), widths=(8,), classes=10),
    data=Images("digits", labelled=64, split="validation"),
    optimizer=OptimizerSpec("sgd"),
    budget=Budget(steps=2, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "digits.py"
    path.write_text(FILE)
    return path


def test_a_sweep_names_its_winner_and_writes_it(file, tmp_path, capsys):
    words = ["sweep", str(file), "--space", "optimizer.learning_rate=0.001,0.3", "--sampler", "grid"]
    words += ["--budget.steps", "5", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 trials: 2 complete" in out
    assert re.search(r"winner: trial 1, accuracy 0\.\d+: optimizer.learning_rate=0.3", out)
    won = load(tmp_path / "out" / "winner.py")
    assert won.optimizer.learning_rate == 0.3 and won.budget.steps == 5 and won.name == "digits-winner"
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert main(words) == 0 and "trial 0" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--space", "optimizer.learnin_rate=1e-3..1"], "the nearest are optimizer.learning_rate"),
        (["--space", "optimizer.learning_rate=1..1e-3"], "optimizer.learning_rate: the range 1..0.001 has no inside"),
        (["--space", "optimizer.learning_rate=1e-3..1"], "needs a number of trials"),
        (["--space", "seed=1,2", "--sampler", "grid", "--workers", "0"], "at least 1 worker"),
        (["--space", "seed=1,2", "--trials", "2", "--sampler", "magic"], "there is no sampler 'magic'"),
        (
            ["--space", "seed=1,2", "--sampler", "grid", "--folds", "2", "--objective", "max:acuracy", "seconds"],
            "objective 'acuracy' isn't measured; the nearest of what is are accuracy, ",
        ),
        (
            ["--space", "seed=1,2", "--sampler", "grid", "--evaluation.metric", "acuracy"],
            "evaluation.metric is 'acuracy', but the evaluation gives accuracy, loss, task",
        ),
        ([], "the following arguments are required: --space"),
    ],
)
def test_bad_input_is_one_sentence_before_training(file, tmp_path, capsys, words, message):
    assert main(["sweep", str(file), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "trials").exists()


@pytest.mark.slow
def test_three_workers_one_killed_and_the_sweep_ends_with_every_trial(file, tmp_path):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "ft_jax.cli", "sweep", str(file), "--space", "optimizer.learning_rate=1e-3..1:log"]
    line += ["--trials", "9", "--startup", "3", "--workers", "3", "--folds", "2", "--out", str(out)]
    sweep = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    killed = None
    begin = time.monotonic()
    while killed is None and time.monotonic() - begin < 120:
        time.sleep(0.2)
        if list(out.glob("trials/*/fold-*/experiment.json")):
            study = optuna.load_study(storage=open_storage(out / "journal.log"), study_name="digits")
            running = [one for one in study.trials if one.state == optuna.trial.TrialState.RUNNING]
            killed = int(running[0].user_attrs["worker"].rpartition(":")[2])
            os.kill(killed, signal.SIGKILL)
    said, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0 and "9 trials: 9 complete" in said
    study = optuna.load_study(storage=open_storage(out / "journal.log"), study_name="digits")
    ended = [one for one in study.trials if one.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(one.user_attrs["slot"] for one in ended) == list(range(9))
    lost = [one for one in study.trials if one.state == optuna.trial.TrialState.FAIL]
    assert [str(killed) in one.user_attrs["worker"] for one in lost] == [True]
    [again] = [one for one in ended if one.user_attrs["lost"]]
    assert again.user_attrs["lost"] == [lost[0].number] and again.params == lost[0].params
