import json

import pytest

from ft_jax.cli import main
from ft_jax.cli.reproduce import load, rows
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most, verdict, within


def test_rows_are_listed_with_paper_place_and_setting(capsys):
    assert main(["reproduce", "--list", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"] for line in lines} == set(rows())
    for line in lines:
        assert line["paper"] and line["where"] and line["setting"] in ("same", "other")
        assert (line["setting"] == "other") == bool(line["difference"])


def test_a_measured_row_is_printed_written_and_on_the_page(tmp_path, capsys):
    assert main(["reproduce", "hyperband_table", "--out", str(tmp_path)]) == 0
    assert "same setting: holds" in capsys.readouterr().out
    told = json.loads((tmp_path / "hyperband_table.json").read_text())
    assert told["holds"] and len(told["findings"]) == 10
    assert "Hyperband" in (tmp_path / "report.html").read_text()


def test_an_unknown_row_is_refused_with_the_nearest(capsys):
    assert main(["reproduce", "hyperbnd_table"]) == 2
    assert "hyperband_table" in capsys.readouterr().err


def test_another_setting_must_say_how_it_differs():
    with pytest.raises(ValueError, match="say how another setting differs"):
        Reproduction("title", "paper", "table 1", "other", lambda seeds, quick: Found(()))


def test_a_number_out_of_its_bound_does_not_hold():
    assert within("x", 1.0, [0.9, 1.1], 0.01).met and not within("x", 1.0, 1.02, 0.01).met
    assert not at_least("x", 1.0, [0.9, 1.0]).met and not at_most("x", 1.0, float("nan")).met
    assert verdict("same", [], quick=False).endswith("does not hold")
    assert load("hyperband_table").seeds == ()
