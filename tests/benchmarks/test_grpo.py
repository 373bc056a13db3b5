"""A GRPO update does what its passes do, by the operations of compiled programs, and is timed beside them."""

import dataclasses

import pytest

from benchmarks import grpo
from benchmarks.case import Options


def test_the_update_is_its_passes():
    asked = Options(size="tiny", methods=("full",), batch=2, time=8, repeats=2)
    plain, held = grpo.rows(asked)
    assert held["flops"] - plain["flops"] == held["passes"]["forward by the reference"]
    for row in (plain, held):
        assert row["ratio"] == pytest.approx(1, abs=0.02) and min(row["passes"].values()) > 0
        assert row["busy_seconds"].keys() == {"update", *row["passes"]}
        assert 0 < row["seconds_ratio"]["min"] <= row["seconds_ratio"]["median"]
    counted = next(grpo.rows(dataclasses.replace(asked, repeats=0)))
    assert counted["flops"] == plain["flops"] and "busy_seconds" not in counted
