"""``ft-jax merge`` from the words a person types."""

import json
import sys

import jax
import numpy as np
import pytest

from ft_jax import models
from ft_jax.cli import main
from ft_jax.ensemble import merging
from ft_jax.models.checkpoints.safetensors_file import read_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("models")
    found = []
    for name, value in (("base", 0.0), ("a", 1.0), ("b", 3.0), ("c", 100.0)):
        model = models.tiny_decoder(jax.random.key(0))
        found.append(str(models.save(model, jax.tree.map(lambda x, v=value: x * 0 + v, model.params), parent / name)))
    return found


def norm(folder):
    return float(read_folder(folder)["model.norm.weight"].load()[0])


def test_the_command_merges_and_says_what_it_did(folders, tmp_path, capsys):
    base, a, b, _ = folders
    words = ["merge", "task_arithmetic", a, b, "--base", base, "--scale", "0.5", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "task_arithmetic (scale 0.5, normalize False)" in said and "21 tensors" in said and "cos 1" in said
    assert norm(tmp_path / "out") == 2.0
    assert main([*words, "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(tmp_path / "out") and told["tensors"] == 21 and len(told["cosines"]) == 2
    assert main(words) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--normalize", "yes"]) == 0
    assert norm(tmp_path / "out") == 1.0


def test_a_greedy_soup_scores_folders_with_the_given_command(folders, tmp_path, capsys):
    script = tmp_path / "score.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom safetensors.numpy import load_file\n"
        "x = load_file(Path(sys.argv[1]) / 'model.safetensors')['model.norm.weight'][0]\nprint('score', -abs(x - 2))\n"
    )
    command = f"{sys.executable} {script} {{}}"
    assert main(["merge", "greedy", *folders[1:], "--score", command, "--out", str(tmp_path / "out")]) == 0
    assert "of 2" in capsys.readouterr().out and norm(tmp_path / "out") == 2.0
    assert (
        main(["merge", "greedy", *folders[1:], "--score", f"{sys.executable} -c 1 {{}}", "--out", str(tmp_path / "o")])
        == 1
    )
    assert "no number" in capsys.readouterr().err


def test_adapters_are_merged_as_adapters(tmp_path, capsys):
    for name in "ab":
        merging.write_adapter({"q": (np.eye(2, 4), np.eye(4, 2))}, tmp_path / name)
    words = ["merge", "uniform", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    assert main([*words, "--rank", "2"]) == 0
    assert "rank 2, which had no room for 0.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["uniform", "A", "B", "--density", "0.5"], "uniform has no option --density; it has none"),
        (["ties", "A", "B", "--epsilon", "0.5"], "ties has no option --epsilon; it has --density"),
        (["ties", "A", "B"], "give the model they were trained from (--base, base=)"),
        (["greedy", "A", "B"], "needs --score"),
        (["greedy", "A", "B", "--score", "true"], "write {} where the folder goes"),
        (["uniform", "A", "nowhere"], "there is no file or folder 'nowhere'"),
        (["uniform", "A", "ADAPTER"], "merge adapters with adapters"),
        (["uniform", "A", "B", "--rank", "2"], "--rank is for adapters"),
        (["soup", "A"], "invalid choice"),
        (["dare", "A", "--elect", "maybe"], "neither yes nor no"),
    ],
)
def test_what_cannot_be_merged_is_refused_in_a_sentence(folders, tmp_path, capsys, words, says):
    merging.write_adapter({"q": (np.eye(2, 4), np.eye(4, 2))}, tmp_path / "adapter")
    places = {"A": folders[1], "B": folders[2], "ADAPTER": str(tmp_path / "adapter")}
    assert main(["merge", *(places.get(word, word) for word in words), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
