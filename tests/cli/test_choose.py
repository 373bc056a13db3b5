import json
from pathlib import Path

import pytest

from ft_jax.cli import main
from ft_jax.cli.experiments import load

EXPERIMENT = '''"""Small digits."""

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.training.specs import Images, Perceptron

experiment = Experiment(
    name="small/digits",
    model=Perceptron(image=(8, 8, 1), widths=(32,), classes=10),
    data=Images("digits", labelled=200),
    optimizer=OptimizerSpec("adam", learning_rate=1e-2),
    budget=Budget(steps=4, batch_size=32),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "digits.py"
    path.write_text(EXPERIMENT)
    return path


def test_the_better_candidate_is_found_with_the_reasons_and_an_experiment_that_runs(file, capsys):
    words = ["choose", str(file), "--turns", "9", "--turn-steps", "12"]
    words += ["--candidate", "full", "transfer.full"]
    words += ["--candidate", "slow", "transfer.full", "optimizer.learning_rate=1e-6"]
    words += ["--candidate", "wide", "transfer.full", "model.widths=64 64"]
    words += ["--candidate", "broken", "transfer.lora(targets=['*/kernal'])"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "goes on without candidate 'broken'" in out and "no weight matches" in out
    assert "turn 9 of 9" in out and "it has had no turn yet" in out
    chosen = out.split("chosen: ")[1].split()[0]
    assert chosen in ("full", "wide")
    folder = file.parent / "runs" / "small" / "digits-choice"
    page = (folder / "choice.html").read_text()
    assert chosen in page and "broken" in page and "<svg" in page
    experiment = load(folder / "chosen.py")
    assert experiment.model.widths == ((32,) if chosen == "full" else (64, 64))
    assert [use.name for use in experiment.method] == ["transfer.full"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen"] == chosen and told["words"][0] == "transfer.full"
    assert {one["candidate"] for one in told["standings"]} == {"full", "slow", "wide"}
    assert load(Path(told["experiment"])).name == experiment.name and Path(told["report"]).is_file()
    # The second command trains nothing, and its page still has every turn with its reason.
    assert (folder / "choice.html").read_text() == page and page.count("it has had no turn yet") == 2


def test_another_choice_of_the_same_experiment_goes_to_a_folder_of_its_own(file, capsys):
    words = ["choose", str(file), "--turns", "2", "--turn-steps", "2", "--candidate", "a", "transfer.full"]
    words += ["--candidate", "b", "transfer.full"]
    assert main([*words, "optimizer.learning_rate=1e-4"]) == 0
    capsys.readouterr()
    # Of the same shapes, so the old state would fit.
    assert main([*words, "optimizer.learning_rate=1e-3"]) == 2
    assert "choose another with --out" in capsys.readouterr().err
    assert main([*words, "optimizer.learning_rate=1e-3", "--out", "other"]) == 0
    assert "turn 2 of 2: b" in capsys.readouterr().out and Path("other/choice.html").is_file()
    assert load(Path("other/chosen.py")).folder != Path("other")


def test_what_can_not_be_chosen_from_is_refused_in_a_sentence(file, capsys):
    assert main(["choose", str(file), "--candidate", "one", "transfer.full"]) == 2
    assert "there are 1 candidates" in capsys.readouterr().err
    assert main(["choose", str(file), "--controller", "thomson"]) == 2
    assert "the nearest are thompson" in capsys.readouterr().err
    assert main(["choose", str(file), "--candidate", "one"]) == 2
    assert "candidate 'one' has no method" in capsys.readouterr().err
