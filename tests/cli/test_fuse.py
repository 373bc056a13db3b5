"""``ft-jax fuse`` from the words a person types."""

import json

import numpy as np
import pytest

from ft_jax.cli import main
from ft_jax.training.predictions import Predictions, read_predictions


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    for name in "abc":
        logits = 1.5 * generator.normal(size=(300, 3)) + 2 * np.eye(3)[labels]
        Predictions((name,), np.float32(3 * logits)[None], labels).save(tmp_path / f"{name}.npz")
    return [str(tmp_path / f"{name}.npz") for name in "abc"]


def numbers(line):
    return [float(word) for word in line.split()[-4:]]


def test_members_and_fusions_are_scored_side_by_side(files, tmp_path, capsys):
    words = ["fuse", *files, "--by", "mean", "weighted", "stack", "--calibrate", "temperature", "--conformal", "raps"]
    assert main([*words, "--out", str(tmp_path / "page.html"), "--save", str(tmp_path / "all.npz")]) == 0
    said = capsys.readouterr().out
    table = said.partition("\n\n")[0].splitlines()[1:]
    found = {line.split("  ")[0]: numbers(line) for line in table}
    assert found["mean"][0] > found["members on average"][0] and found["mean"][1] > found["members on average"][1]
    assert found["mean, temperature"][3] < found["mean"][3]
    assert (
        "scored on 149 examples, fitted on 151 others" in said
        and "90% was promised" in said
        and "weights of the mixture" in said
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 9 and "members on average" in page
    saved = read_predictions(tmp_path / "all.npz")
    assert saved.logits.shape == (9, 300, 3) and saved.names[-1] == "stack, temperature"
    assert main([*words, "--json", "--save", str(tmp_path / "again.npz")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == list(saved.names) and told["fitted_on"] == 151
    assert round(told["rows"][3]["accuracy"], 4) == found["mean"][0]


def test_a_quorum_leaves_unanswered_what_too_few_agree_on(files, capsys):
    votes = np.stack([read_predictions(file).logits[0].argmax(-1) for file in files])
    labels = read_predictions(files[0]).labels
    counts = np.stack([(votes == label).sum(0) for label in range(3)])
    answered = counts.max(0) == 3
    assert main(["fuse", *files, "--by", "vote", "--quorum", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["quorum"]
    assert told["needed"] == 3 and told["unanswered"] == np.flatnonzero(~answered).tolist() != []
    np.testing.assert_allclose(told["answered"], answered.mean())
    np.testing.assert_allclose(told["accuracy"], (counts.argmax(0) == labels)[answered].mean())
    assert main(["fuse", *files, "--by", "vote", "--quorum", "3"]) == 0
    assert f"with a quorum of 3 votes {answered.mean():.1%} are answered" in capsys.readouterr().out


def test_a_quorum_that_cannot_be_had_is_refused_before_a_member_is_trained(tmp_path, capsys):
    words = ["fuse", "distillation/digits", "--seeds", "3", "--by", "vote", "--quorum", "4", "--runs", str(tmp_path)]
    assert main(words) == 2 and not list(tmp_path.iterdir())
    assert "a quorum of 4 can't be had from 3 members" in capsys.readouterr().err
    # Members of one program are as many.
    file = tmp_path / "members.py"
    file.write_text('from experiments.ensemble.back_to_backbone import stages\nexperiment = stages()["members"]\n')
    words = ["fuse", str(file), "--by", "vote", "--quorum", "11", "--runs", str(tmp_path / "runs")]
    assert main(words) == 2 and not (tmp_path / "runs").exists()
    assert "a quorum of 11 can't be had from 10 members" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--by", "stack", "--held-out", "0.001"], "leaves none to fuse on"),
        (["--by", "median"], "can't fuse by 'median'"),
        (["--calibrate", "isotonic"], "can't calibrate by 'isotonic'"),
        (["--conformal", "aps", "--alpha", "0.001"], "give at least 999"),
        (["--by", "stack", "--held-out", "1.5"], "held_out is 1.5"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--quorum", "4"], "a quorum of 4 can't be had from 3 members; give one from 1 to 3"),
        (["--quorum", "0"], "a quorum of 0 can't be had"),
        (["--quorum", "2", "--by", "mean"], "a quorum of 2 is of a vote, and there is none among mean"),
        (["OTHER"], "speak of different examples"),
        (["EMPTY"], "has no 'logits'"),
        (["gone.npz"], "there is no file 'gone.npz'"),
        (["WRONG"], "wrong has logits that are not finite"),
    ],
)
def test_what_cannot_be_fused_is_refused_in_a_sentence(files, tmp_path, capsys, extra, says):
    Predictions(("x",), np.zeros((1, 300, 3), np.float32), np.zeros(300, int)).save(tmp_path / "other.npz")
    np.savez(tmp_path / "empty.npz", x=np.zeros(2))
    of_one = read_predictions(files[0])
    Predictions(("wrong",), np.full_like(of_one.logits, np.nan), of_one.labels).save(tmp_path / "wrong.npz")
    places = {
        "WRONG": str(tmp_path / "wrong.npz"),
        "OTHER": str(tmp_path / "other.npz"),
        "EMPTY": str(tmp_path / "empty.npz"),
    }
    assert main(["fuse", *files, *(places.get(word, word) for word in extra)]) == 2
    assert says in capsys.readouterr().err
