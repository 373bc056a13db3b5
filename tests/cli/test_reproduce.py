import json
from pathlib import Path

import pytest

from ft_jax.cli import main
from ft_jax.cli.reproduce import load, rows
from ft_jax.training.reproduction import Found, Reproduction, at_least, at_most, keep, kept, record, verdict, within

RECORDS = Path(__file__).parents[2] / "docs" / "results" / "reproduce.jsonl"


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


def test_data_of_ones_own_is_for_rows_that_read_some(tmp_path, capsys):
    assert main(["reproduce", "hyperband_table", "--data", "mnist:a.npz", "--out", str(tmp_path)]) == 2
    assert "hyperband_table makes its own data, so --data mnist:a.npz is for other rows" in capsys.readouterr().err
    missing = f"mnist:{tmp_path / 'none.npz'}"
    assert main(["reproduce", "permuted_mnist_gem", "--quick", "--data", missing, "--out", str(tmp_path)]) == 2
    assert "none.npz" in capsys.readouterr().err


def test_another_setting_must_say_how_it_differs():
    with pytest.raises(ValueError, match="say how another setting differs"):
        Reproduction("title", "paper", "table 1", "other", lambda seeds, quick: Found(()))


def test_a_number_out_of_its_bound_does_not_hold():
    assert within("x", 1.0, [0.9, 1.1], 0.01).met and not within("x", 1.0, 1.02, 0.01).met
    assert not at_least("x", 1.0, [0.9, 1.0]).met and not at_most("x", 1.0, float("nan")).met
    assert verdict("same", [], quick=False).endswith("does not hold")
    assert load("hyperband_table").seeds == ()


def test_records_are_one_line_a_name_the_newest_and_say_what_measured_them(tmp_path, capsys):
    file = tmp_path / "records" / "a.jsonl"
    assert main(["reproduce", "hyperband_table", "--out", str(tmp_path), "--record", str(file)]) == 0
    row = Reproduction("title", "paper", "table 1", "same", lambda seeds, quick: Found(()), seeds=(0, 1))
    for value in (float("nan"), 0.5):
        found = Found([at_least("accuracy", 0.4, [value, 0.6])], {"curve": "<svg></svg>"})
        keep(file, record("a_row", row, found, (0, 1), False, 12.0))
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert names == ["a_row", "hyperband_table"]
    told = kept(file)["a_row"]
    assert told["verdict"] == "same setting: holds" and told["findings"][0]["ours"] == [0.5, 0.6]
    assert told["versions"]["jax"] and told["date"] and not {"seconds", "pictures"} & set(told)
    capsys.readouterr()
    assert main(["reproduce", "hyperband_table", "--quick", "--record", str(file)]) == 2
    assert "leave out --quick" in capsys.readouterr().err


def test_a_file_that_holds_something_else_is_not_written_over(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"name": "x", "verdict": "y"}\n{"experiment": "z"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2 has no name and verdict"):
        keep(file, {"name": "x"})
    assert len(file.read_text().splitlines()) == 2


def test_every_record_is_of_a_row():
    assert set(kept(RECORDS)) <= set(rows())
