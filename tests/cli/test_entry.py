import json
import subprocess
import sys
import warnings

import pytest

from ft_jax.cli import main
from ft_jax.core.catalogue import FAMILIES, catalogue


def test_methods_lists_the_whole_catalogue_by_family(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in FAMILIES] == list(FAMILIES)
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == list(catalogue)


def test_methods_as_json_says_what_the_catalogue_says(capsys):
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == [entry.describe() for entry in catalogue.values()]
    assert {"family", "name", "paper"} <= set(listed[0])


def test_one_method_shows_its_documentation(capsys):
    assert main(["methods", "adaptive.plateau"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("adaptive.plateau(") and "arXiv:1512.03385" in out and "patience: bad evaluations" in out


@pytest.mark.parametrize(
    "words, message",
    [
        (["methods", "transfer.lara"], "error: no method is called 'transfer.lara'; the nearest are transfer.lora, "),
        (
            ["frobnicate"],
            "error: there is no command 'frobnicate'; use one of run, ",
        ),
        (["report"], "error: the following arguments are required: run; see ft-jax report --help"),
        (["report", "nowhere"], "error: nowhere is not a folder; give the folder of a run"),
        (["fetch", "nowhere"], "error: "),
        (["methods", "--jsn"], "error: unrecognized arguments: --jsn"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1 and not captured.out


def test_debug_shows_the_traceback(capsys):
    assert main(["methods", "transfer.lara", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_crash_is_status_1_and_says_what_kind(monkeypatch, capsys):
    from ft_jax.cli import methods

    for error, told in [
        (RuntimeError("out of\n memory"), "RuntimeError: out of memory (--debug shows where)"),
        (KeyError("step"), "KeyError: 'step' (--debug shows where)"),
        (AssertionError(), "AssertionError (--debug shows where)"),
    ]:
        monkeypatch.setattr(methods, "command", lambda words, error=error: (_ for _ in ()).throw(error))
        assert main(["methods"]) == 1
        assert capsys.readouterr().err == f"error: {told}\n"


def test_an_interrupted_run_is_status_130(monkeypatch, capsys):
    from ft_jax.cli import methods

    def stopped(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "command", stopped)
    assert main(["methods"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


def test_warnings_are_one_line_too(monkeypatch, capsys):
    from ft_jax.cli import methods

    def warned(words):
        warnings.warn("3 texts were cut", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(methods, "command", warned)
    assert main(["methods"]) == 0
    assert capsys.readouterr().err == "warning: 3 texts were cut\n"


def test_help_and_version(capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"ft-jax {name}" in out for name in ("run", "list", "methods", "report", "fetch"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ft_jax ")


def test_listing_methods_loads_no_models_and_no_checkpoints():
    code = (
        "import sys; from ft_jax.cli import main; status = main(['methods']); "
        "heavy = {'transformers', 'orbax', 'grain', 'tyro', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "adaptive.plateau" in done.stdout


def test_a_report_is_written_where_it_says(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.json").write_text(json.dumps({"name": f"family/{name}"}))
    assert main(["report", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "report.html")
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "family/a" in page and "family/b" in page


def test_a_package_that_an_extra_brings_is_named_with_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [one for one in sys.modules if one.startswith(("ft_jax.tuning.search", "ft_jax.training.sweeps"))]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["sweep", "own/classify", "--space", "optimizer.learning_rate=1e-4..1e-2:log"]) == 2
    assert "this needs optuna, which is not installed; pip install 'ft_jax[search]'" in capsys.readouterr().err
