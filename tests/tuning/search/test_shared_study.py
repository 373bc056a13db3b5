import signal
import sqlite3
import subprocess
import sys

import optuna
import pytest
from tuning.search import shared_worker
from tuning.search.shared_worker import opened, value, work

from ft_jax.tuning.search import parse_space


def test_three_workers_one_killed_and_every_trial_is_accounted_for(tmp_path):
    slots = opened(tmp_path).plan(12)
    command = [sys.executable, shared_worker.__file__, str(tmp_path)]
    # It dies in the middle of its second trial.
    doomed = subprocess.Popen([*command, "0", "1"])
    assert doomed.wait(120) == -signal.SIGKILL and opened(tmp_path).account(slots)["running"] == 1
    others = [subprocess.Popen([*command, str(index)]) for index in (1, 2)]
    assert [other.wait(120) for other in others] == [0, 0]
    # Whoever comes last, such as the same command given again, takes up what is left.
    opened(tmp_path).plan(12)
    work(tmp_path, 3)
    study = opened(tmp_path)
    told = study.account(slots)
    assert told["complete"] == 12 and told["missing"] == told["running"] == told["waiting"] == told["failed"] == 0
    ended = [trial for trial in study.study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(trial.user_attrs["slot"] for trial in ended) == list(range(12))
    for trial in ended:
        assert trial.value == value(trial.params)


def test_a_lost_trial_is_taken_up_with_its_values_and_only_so_often(tmp_path):
    study = opened(tmp_path)
    study.plan(1)
    first = None
    for attempt in range(3):
        [(trial, at)] = study.ask()
        first = first or at
        assert at == first
        # The worker of another computer that gave no sign of life for a day.
        trial.set_user_attr("worker", "elsewhere:1")
        trial.set_user_attr("beat", 0.0)
        assert study.retry_lost() == [trial.number]
        assert study.account(1)["waiting"] == (attempt < 2)
    assert study.account(1)["failed"] == 1 and not study.ask()
    assert "3 workers died" in study.study.trials[-1].user_attrs["why"]
    assert not study.tell(trial, [0.0])


def test_a_living_worker_keeps_its_trial(tmp_path):
    study = opened(tmp_path)
    study.plan(2)
    study.ask(2)
    assert opened(tmp_path, 1).retry_lost() == [] and study.running()


def test_an_interrupted_sweep_goes_on_and_can_be_made_longer(tmp_path):
    study = opened(tmp_path)
    study.plan(3)
    [(trial, at)] = study.ask()
    study.tell(trial, [value(at)])
    again = opened(tmp_path)
    again.plan(5)
    work(tmp_path, 0)
    assert opened(tmp_path).account(5)["complete"] == 5
    assert len(opened(tmp_path).study.trials) == 5


def test_a_journal_and_a_database_give_the_same_trials(tmp_path):
    found = []
    for storage in (tmp_path / "a.log", f"sqlite:///{tmp_path}/b.db"):
        study = opened(tmp_path, storage=storage)
        study.plan(6)
        while asked := study.ask():
            study.tell(asked[0][0], [value(asked[0][1])])
        found.append([trial.params for trial in study.study.trials])
    assert found[0] == found[1]
    assert sqlite3.connect(tmp_path / "b.db").execute("select count(*) from trials").fetchone() == (6,)


def test_a_storage_of_another_sweep_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(ValueError, match="holds another sweep called 'sweep', whose space.y is None and not"):
        opened(tmp_path, space=parse_space(["x=-4.0..4.0", "kind=a,b", "y=1..2"]))


def test_a_storage_that_does_not_answer_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="can't be opened|driver that isn't installed"):
        opened(tmp_path, storage="postgresql://nobody@localhost:1/none")
