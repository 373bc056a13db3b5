import json
from pathlib import Path

import pytest
from training import small

from ft_jax.cli import main

FILE = '''"""A perceptron learns which half of an image is bright."""
import dataclasses

import numpy as np

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Task, Use
from ft_jax.training.specs import Perceptron


class Rows:
    """The same batch again and again."""

    def __init__(self, batch):
        self.batch = batch

    def __next__(self):
        return self.batch

    def get_state(self):
        return 0

    def set_state(self, state):
        pass


@dataclasses.dataclass(frozen=True)
class Halves:
    """Random images.

    Attributes:
      count: of images.
    """

    count: int = 16

    def build(self, model, feed):
        images = np.random.default_rng(0).random((self.count, 8, 8, 1), np.float32)
        labels = (images[:, :4].sum((1, 2, 3)) > images[:, 4:].sum((1, 2, 3))).astype(np.int32)
        batch = {"images": images[: feed.batch_size], "labels": labels[: feed.batch_size]}
        return (Task("halves", Rows(batch), {"halves": [batch]}, self.count),)


experiment = Experiment(
    "halves",
    Perceptron(widths=(8,), classes=2),
    Halves(),
    (Use("transfer.lora", rank=2), Use("adaptive.plateau")),
    optimizer=OptimizerSpec(learning_rate=0.1),
    budget=Budget(steps=12, batch_size=8),
    evaluation=EvaluationSpec(every=6, metric="accuracy", mode="max"),
    expect={"loss_drop": 0.01},
)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "halves.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_leaves_its_record_and_its_report_and_is_not_run_twice(here, capsys):
    words = ["run", "halves.py", "--method.transfer.lora.rank", "3", "--hyper.transfer.lora.alpha", "8", "--seed=2"]
    words += ["--expect.loss_drop", "0.01"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "accuracy on halves: " in first and "expected loss_drop 0.01: " in first and "(met)" in first
    assert first.splitlines()[-1] == "report: runs/halves/report.html"
    record = json.loads((here / "runs/halves/experiment.json").read_text())
    assert record["command"] == ["ft-jax", *words] and record["seed"] == 2
    assert record["method"][0] == {"name": "transfer.lora", "options": {"rank": 3}}
    assert record["doc"] == "A perceptron learns which half of an image is bright."
    page = (here / "runs/halves/report.html").read_text()
    assert "ft-jax run halves.py --method.transfer.lora.rank 3" in page and "rank = 3" in page
    assert "alpha = 8 (set in hyper)" in page and record["doc"] in page

    lines = (here / "runs/halves/metrics.jsonl").read_text()
    assert main(words) == 0
    assert "was finished already" in capsys.readouterr().out
    assert (here / "runs/halves/metrics.jsonl").read_text() == lines


def test_a_dry_run_counts_and_trains_nothing(here, capsys):
    assert main(["run", "halves.py", "--dry-run", "--method.transfer.lora.rank", "3"]) == 0
    out = capsys.readouterr().out
    learned = 3 * (64 + 8)  # LoRA's two factors over the hidden layer; the head is left out
    whole = 64 * 8 + 8 + 8 * 2 + 2 + learned + 1  # and the adapter's scale
    assert f"{learned:,} of {whole:,} ({100 * learned / whole:.3g} %)" in " ".join(out.split())
    assert out.index("transfer.lora") < out.index("adaptive.plateau") < out.index("optimizer ")
    assert "alpha=16" in out and "float32[8, 8, 8, 1]" in out and "optimizer state" in out and "together" in out
    assert not (here / "runs").exists()


def test_a_dry_run_trains_no_teacher(here, capsys):
    file = Path(__file__).parents[2] / "experiments" / "distillation" / "digits.py"
    assert main(["run", str(file), "--dry-run"]) == 0
    assert "distillation.logits" in capsys.readouterr().out
    assert not (here / "runs").exists()


def test_help_after_a_name_lists_fields_with_types_and_values(here, capsys):
    assert main(["run", "halves.py", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--data.count int = 16 of images." in out
    assert "--method.transfer.lora.rank int = 2 the update's rank." in out
    assert "--budget.steps int | None = 12" in out
    assert "--loss (set in the file)" in out
    assert main(["run", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "ft-jax run needs an experiment's name or file"),
        (["--dry-run"], "ft-jax run needs an experiment's name or file"),
        (["--seed", "3", "halves.py"], "'--seed' stands before the experiment"),
        (
            ["halves.py", "--budget.stps", "3"],
            "the experiment has no field 'budget.stps'; the nearest are budget.steps",
        ),
        (["halves.py", "--budget.steps", "-1"], "budget.steps is -1; give a number above 0"),
        (
            ["halves.py", "--hyper.transfer.lora.alhpa", "1"],
            "hyper has no number 'transfer.lora.alhpa'; the nearest are",
        ),
        (["halves.py", "--data.count", "0"], ""),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(here, capsys, words, message):
    assert main(["run", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and "Traceback" not in err
    assert not (here / "runs/halves/metrics.jsonl").exists()


def test_a_run_that_diverges_fails_with_a_report(here, capsys):
    assert main(["run", "halves.py", "--optimizer.learning_rate", "1e38", "--log_every", "1"]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: the loss is not finite") and err.endswith("report: runs/halves/report.html")
    assert "diverged" in (here / "runs/halves/report.html").read_text()


def test_a_script_reads_one_json_object_of_a_run_and_a_list_of_experiments(tmp_path, monkeypatch, capsys):
    folder = Path(small.__file__).parent
    file = tmp_path / "mine.py"
    file.write_text(
        f"import sys; sys.path.insert(0, {str(folder.parent)!r})\n"
        "from training.small import experiment as made\nexperiment = made()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(file), "--budget.steps", "2", "--out", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "finished" and told["run"] == "run" and told["report"] == "run/report.html"
    assert told["scores"] == json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    assert told["memory"]["host_gib"] > 0
    assert main(["list", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["own/embed"]["family"] == "own" and Path(listed["own/embed"]["file"]).is_file()
