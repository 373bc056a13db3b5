import sys

import pytest

from ft_jax.cli import main
from ft_jax.cli.experiments import experiments, find, load

FILE = '''"""{doc}

More words.
"""
import dataclasses

from ft_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Spec:
    size: int = 1

    def build(self, *arguments):
        raise AssertionError("loading builds nothing")


experiment = Experiment("{name}", Spec(), Spec())
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with experiments of its own as the working directory."""
    for name, doc in [("transfer/alpha", "First."), ("rl/beta", "Second."), ("rl/alpha", "Third.")]:
        file = tmp_path / "experiments" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILE.format(name=name, doc=doc))
    (tmp_path / "experiments" / "rl" / "prompts.py").write_text("PROMPTS = []\n")
    (tmp_path / "experiments" / "rl" / "__init__.py").write_text("experiment = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ft_jax.cli.experiments._installed", list)
    return tmp_path


def test_experiments_are_listed_by_family_without_running_them(here, capsys):
    (here / "experiments" / "rl" / "loud.py").write_text('"""Loud."""\nprint("loudly")\nexperiment = 1 / 0\n')
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:4] == [
        "rl",
        "  rl/alpha        Third.",
        "  rl/beta         Second.",
        "  rl/loud         Loud.",
    ]
    assert "transfer/alpha" in out and "prompts" not in out and "__init__" not in out and "loudly" not in out


def test_a_name_a_short_name_and_a_file_find_the_same_experiment(here):
    for name in ("rl/beta", "beta", "experiments/rl/beta.py"):
        experiment = load(find(name))
        assert experiment.name == "rl/beta" and experiment.doc == "Second."


@pytest.mark.parametrize(
    "name, message",
    [
        ("rl/betta", "no experiment is called 'rl/betta'; the nearest are rl/beta"),
        ("alpha", "several experiments are called 'alpha': name one of rl/alpha, transfer/alpha"),
        ("gone.py", "there is no file gone.py"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(here, capsys, name, message):
    assert main(["run", name]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", "defines no experiment; end it with experiment = Experiment(...)"),
        ("experiment = 3\n", "defines experiment as a int"),
        ("\nexperiment = 1 / 0\n", "can't be read: ZeroDivisionError: division by zero (line 2); mend the file"),
        ("experiment = (\n", "can't be read: SyntaxError"),
    ],
)
def test_a_file_without_an_experiment_is_told_in_one_sentence(here, capsys, text, message):
    (here / "mine.py").write_text(text)
    assert main(["run", "mine.py"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: mine.py ") and message in err and err.count("\n") == 1


def test_no_experiments_at_all_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ft_jax.cli.experiments._installed", list)
    assert experiments() == [] and main(["list"]) == 0
    assert "no experiments" in capsys.readouterr().out


def test_a_file_imports_what_lies_beside_it_wherever_it_is_run_from(here, monkeypatch):
    folder = here / "somewhere"
    folder.mkdir()
    (folder / "my_own_words.py").write_text("NAME = 'mine/beside'\n")
    text = FILE.format(doc="Mine.", name="x").replace('Experiment("x"', "Experiment(NAME")
    (folder / "mine.py").write_text(
        text.replace("import dataclasses", "import dataclasses\nfrom my_own_words import NAME")
    )
    monkeypatch.setattr("sys.path", list(sys.path))
    assert load(find("somewhere/mine.py")).name == "mine/beside"


def test_what_is_there_and_no_experiment_says_what_it_is(here, capsys):
    (here / "run").mkdir()
    (here / "run" / "experiment.json").write_text("{}")
    (here / "reviews.csv").write_text("text,label\n")
    for name, told in (
        ("run", "run is the folder of a run; the command that began it goes on with it"),
        ("experiments", "experiments is a folder and no experiment"),
        ("reviews.csv", "one reads it, as in ft-jax run classify --data.address reviews.csv"),
    ):
        assert main(["run", name]) == 2
        assert told in capsys.readouterr().err
