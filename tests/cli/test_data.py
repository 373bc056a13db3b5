"""``ft-jax data`` tells what training goes by: the same roles, classes, lengths and tokens with loss."""

import json

import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders
from training.tiny_texts import experiment, rows

from ft_jax import data
from ft_jax.cli import data as command
from ft_jax.cli.dry_run import dry_run
from ft_jax.cli.entry import main
from ft_jax.data import description


@pytest.fixture
def chats(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "tokenizer_of", lambda address: for_decoders())
    lines = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi you"}], "id": 7},
        {"messages": [{"role": "user", "content": "was the film good"}, {"role": "assistant", "content": "very"}]},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_is_told_with_classes_lengths_and_what_would_be_cut(tmp_path, capsys):
    address = rows(tmp_path, "a.jsonl", ("pos", "neg", "pos"))
    assert main(["data", address, "--length", "4"]) == 0
    told = capsys.readouterr().out
    counts = {
        name: int(line.split()[2]) for name in ("neg", "pos") for line in told.splitlines() if f" {name} " in line
    }
    assert counts == {"neg": 20, "pos": 40}
    words = [len(text.split()) for text in data.load(address).columns["text"]]
    assert f"lengths in words: {min(words)} to {max(words)}" in told
    assert f"{sum(size > 4 for size in words)} examples lose {sum(max(size - 4, 0) for size in words)} words" in told


def test_json_holds_the_same_for_several_files_with_one_numbering(tmp_path, capsys):
    addresses = [rows(tmp_path, "a.jsonl", ("x", "z")), rows(tmp_path, "b.jsonl", ("y",))]
    assert main(["data", *addresses, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[one]["classes"] for one in addresses] == [{"x": 30, "y": 0, "z": 30}, {"x": 0, "y": 60, "z": 0}]
    assert found[addresses[0]]["columns"]["text"]["role"] == "read by the model"
    assert sum(count for *_, count in found[addresses[0]]["lengths"]["histogram"]) == 60


def test_tokens_that_carry_loss_are_those_that_training_learns(chats):
    found = command.inspect([str(chats)], model="any", length=9)[str(chats)]
    trained = data.next_tokens(data.load(chats), for_decoders(), length=64)
    assert found["learned"] == sum(int(one["weights"].sum()) for one in trained)
    learned = ["".join(text for text, own in part["pieces"] if own) for (part,) in found["first"]]
    assert learned == ["hi you <|end|>", "very <|end|>"]
    assert found["cut"] == {"length": 9, "examples": 0, "tokens": 0, "nothing left to learn": 0}
    assert found["columns"]["id"]["role"] == "not used" and found["columns"]["id"]["missing"] == 1


def test_loss_is_coloured_on_a_terminal_and_bracketed_elsewhere(chats):
    found = command.inspect([str(chats)], model="any")
    (one,) = found.values()
    assert "⟦hi you <|end|>⟧" in command.told("x", one, colour=False)
    assert f"{command.COLOUR}hi you <|end|>{command.PLAIN}" in command.told("x", one, colour=True)


def test_a_cut_that_leaves_nothing_to_learn_is_told(chats):
    found = command.inspect([str(chats)], model="any", length=6)[str(chats)]
    assert found["cut"]["nothing left to learn"] == 1
    assert "1 of them all that carries loss, which training refuses" in command.told("x", found, colour=False)


def test_what_training_refuses_is_refused_here(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\nx,\n")
    assert main(["data", str(tmp_path / "a.csv")]) == 2
    assert "line 2 has no label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}, "preferences"),
        ({"prompt": ["a"], "completion": ["b"]}, "prompts and completions"),
        ({"text": ["a"]}, "plain texts"),
        ({"images": np.zeros((1, 2, 2)), "labels": np.array([1])}, "labelled images"),
        ({"other": ["a"]}, "unknown"),
    ],
)
def test_the_form_is_that_of_the_columns(columns, form):
    assert description.form_of(data.Dataset(columns)) == form


def test_a_dry_run_shows_columns_with_roles_and_classes(tmp_path):
    told = dry_run(experiment(rows(tmp_path, "a.jsonl", ("neg", "neu", "pos"))))
    lines = {" ".join(line.split()[:2]): line for line in told.splitlines() if line.startswith("  column")}
    assert "read by the model: text" in lines["column text"] and "class ids: neg" in lines["column labels"]
