"""The benchmark of environments: what is counted as steps, the peer in turns, and what is refused."""

import pytest

from benchmarks import environments
from benchmarks.case import Options


def test_every_step_of_every_copy_is_taken():
    run = environments.acting({"copies": 3, "chunk": 20})
    # CartPole pays 1 for every step, in new episodes too.
    assert [run(), run()] == [60.0, 60.0]


def test_a_peer_is_timed_in_turns(monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr(environments, "COPIES", (2,))
    asked = Options(methods=("acting",), repeats=2, peer=("gymnasium-sync",))
    (row,) = environments.rows(asked)
    assert row["copies"] == 2 and row["pairs"] == 2 and row["versions"].keys() == {"gymnasium", "numpy"}
    assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    assert row["steps_per_second"] == pytest.approx(2 * row["chunk"] / row["cpu_seconds"]["median"])


def test_what_is_not_measured_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="environments measures no 'running'; use acting, learning"):
        next(environments.rows(Options(methods=("running",))))
    with pytest.raises(ValueError, match="environments has no peer 'brax'; use gymnasium"):
        next(environments.rows(Options(peer=("brax",))))
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the peer needs rejax, which this environment has not; pip install rejax"):
        environments.begun("rejax", {}, None)
