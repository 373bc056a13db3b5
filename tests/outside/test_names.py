"""Names that deceive are refused wherever a person gives one, before anything is written."""

import dataclasses
from pathlib import Path

import pytest
from training.small import Points, experiment, points, stream

from ft_jax.cli.entry import main
from ft_jax.core import Method, compose
from ft_jax.models.checkpoints.whole_folder import vacant
from ft_jax.training import Experiment, Feed, Task, fit
from ft_jax.training.choosing import described
from ft_jax.training.experiment import Budget
from ft_jax.training.run_folder import check_folder
from ft_jax.training.stream import check_stream
from ft_jax.training.sweeps import Sweep

SOURCE = stream(points(8, 0), Feed(4))
DECEIVES = ("a\nb", "a\u202etxt", "a\x1b[2J", "a\u200fb", "x" * 256, "a\ud800")
TELLS = r"has (the control character|the direction mark|a part of 256 bytes|'\\ud800', which is no character)"

GIVEN = {
    "experiment": lambda name: experiment(name=name).check(),
    "run folder": lambda name: experiment(out=f"runs/{name}").check(),
    "folder of a run": lambda name: check_folder(experiment(), Path(name)),
    "metric": lambda name: experiment(metrics={name: None}).check(),
    "task": lambda name: check_stream(Task(name, SOURCE)),
    "evaluation set": lambda name: check_stream(Task("a", SOURCE, {name: [{}]})),
    "method": lambda name: compose(Method(name)),
    "folder of a model": lambda name: vacant(name, overwrite=True),
    "sweep": lambda name: Sweep(experiment(), {"seed": "1,2"}, trials=2, out=name).check(),
    "candidate": lambda name: described(["transfer.lora"], name),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", DECEIVES, ids=ascii)
def test_a_name_that_deceives_is_refused(given, name):
    with pytest.raises(ValueError, match=TELLS) as error:
        GIVEN[given](name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("given", GIVEN)
def test_a_name_in_any_language_is_taken(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GIVEN[given]("Größe 大きい עברית")


@pytest.mark.parametrize(
    "words", ["merge uniform a b", "report run", "fuse --set test", "bench", "reproduce", "sweep a"]
)
def test_a_place_to_write_to_that_deceives_is_refused_by_every_command(words, capsys):
    assert main([*words.split(), "--out", "a\u202eb"]) == 2
    assert "the place to write to 'a\\u202eb' has the direction mark" in capsys.readouterr().err


def test_a_run_under_a_name_that_deceives_writes_nothing(tmp_path):
    named = dataclasses.replace(experiment(budget=Budget(steps=1, batch_size=8)), name="points\u2066")
    assert isinstance(named, Experiment) and isinstance(named.data, Points)
    with pytest.raises(ValueError, match="experiment 'points"):
        fit(named, run=tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())
