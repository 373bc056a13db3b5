"""Shipped experiments run on one's own files, and what is wrong with one is said before anything trains."""

import json

import pytest
from training.serving import small_runs

from ft_jax.cli import main
from ft_jax.training.serving import load_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    small_runs.encoder_folder(folder / "encoder")
    small_runs.decoder_folder(folder / "decoder")
    small_runs.texts(folder / "reviews.csv")
    chats = [json.loads(line) for line in small_runs.chats(folder / "chats.jsonl").read_text().splitlines()]
    turns = [(chat["messages"][0]["content"], chat["messages"][1]["content"]) for chat in chats]
    rows = {
        "answers": [{"prompt": one, "completion": other} for one, other in turns],
        "pairs": [{"prompt": one, "chosen": other, "rejected": "awful"} for one, other in turns],
        "articles": [{"text": " ".join([one, other] * 9)} for one, other in turns],
    }
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "more.csv").write_text(
        "text,label\n" + "".join(f"{text} {word},{name}\n" for word in ["the", "a", "is", "was", "very", "and"]
                                  for text, name in (("hi you", "neutral"), ("great film", "positive")))
    )  # fmt: skip
    return folder


DECODER = ["--data.length", "24", "--budget.batch_size", "2"]
LOW = ["--method.transfer.lora.rank", "2"]
RUNS = {
    "sft": ["--data.address", "chats.jsonl", "--model.address", "decoder", *DECODER, *LOW],
    "dpo": ["--data.address", "pairs.jsonl", "--model.address", "decoder", *DECODER, *LOW],
    "pretrain": ["--data.address", "articles.jsonl", "--model.address", "decoder", *DECODER],
    "distil": ["--data.address", "answers.jsonl", "--model.address", "decoder",
               "--method.distillation.logits.params.address", "decoder", *DECODER],
    "classify": ["--data.address", "reviews.csv", "--model.address", "encoder", "--data.length", "16"],
    "continual": ["--data.addresses", "reviews.csv", "more.csv", "--model.address", "encoder", "--data.length", "16",
                  "--budget.batch_size", "4"],
    "search": ["--data.address", "reviews.csv", "--model.address", "encoder", "--data.length", "16"],
}  # fmt: skip


# tests/test_quickstart.py runs the others.
@pytest.mark.parametrize("name", ("pretrain", "distil", "continual"))
def test_a_shipped_experiment_runs_on_ones_own_file(name, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["run", f"own/{name}", *RUNS[name], "--budget.steps", "2", "--out", f"runs/{name}"]) == 0
    out = capsys.readouterr().out
    assert f"report: runs/{name}/report.html" in out
    kept = load_run(place / "runs" / name)
    if name == "continual":
        assert kept.model.classes == ("negative", "neutral", "positive")
        summary = json.loads((place / "runs" / name / "summary.json").read_text())
        assert set(summary["scores"]) == {"before", "after reviews", "after more", "after"}


def test_methods_written_on_the_command_line_take_the_places_of_the_files(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["run", "own/classify", *RUNS["classify"], "--dry-run"]
    assert main([*words, "--method", "incremental.ewc(weight=3)", "transfer.lora(2)"]) == 0
    out = capsys.readouterr().out
    assert "incremental.ewc" in out and "weight=3" in out
    assert main([*words, "--method", "+incremental.ewc", "--method.transfer.lora.rank", "4"]) == 0
    told = capsys.readouterr().out
    assert told.index("incremental.ewc") < told.index("transfer.lora")


@pytest.mark.parametrize(
    "words, told",
    [
        (["own/sft"], "data.address names no data; give it, such as --data.address chat.jsonl"),
        (["own/sft", "--data.address", "chats.jsonl", "--model.address", ""], "model.address names no model"),
        (["own/sft", "--data.address", "gone.jsonl", "--model.address", "decoder"], "gone.jsonl"),
        (["own/sft", "--data.address", "reviews.csv", "--model.address", "decoder", "--data.evaluation", "pairs.jsonl"],
         "pairs.jsonl"),
        (["own/classify", "--data.address", "pairs.jsonl", "--model.address", "encoder"], "text"),
        (["own/dpo", "--data.address", "reviews.csv", "--model.address", "decoder"], "prompt"),
        (["own/classify", "--data.address", "empty.csv", "--model.address", "encoder"], "empty.csv"),
        (["own/classify", "--data.address", "reviews.csv", "--model.address", "encoder", "--data.held_out", "2"],
         "data.held_out is 2.0"),
        (["own/classify", "--method", "transfer.lora(rank=x)"], "has 'x' in it, which is no plain value"),
        (["own/classify", "--method", "transfer.lora(1, rank=2)"], "several values for 'rank'"),
        (["own/classify", "--method", "open('x')"], "is no method"),
    ],
)  # fmt: skip
def test_a_wrong_file_or_method_is_one_sentence_and_writes_nothing(words, told, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "empty.csv").write_text("")
    assert main(["run", *words, "--out", "runs/refused"]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1, err
    assert not (place / "runs" / "refused").exists()
