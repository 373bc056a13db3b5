"""Whatever is wrong with what a command is given: one sentence, status 2, and nothing written or replaced."""

import dataclasses
import json
import shutil

import pytest
from training.serving import small_runs

from ft_jax.cli import main
from ft_jax.cli.entry import COMMANDS
from ft_jax.training import Budget
from ft_jax.training.seal import seal

DATA = ("nowhere.csv", "empty.csv", "no_rows.csv", "no_column.csv", "binary.csv", "broken.jsonl", "list.jsonl", "a.xyz")
FEW = ("nowhere.csv", "no_rows.csv", "no_column.csv")
RUNS = ("nowhere", "reviews.csv", "no_run", "mine", "interrupted", "killed", "older", "cut")
FILES = ("nowhere", "nowhere.py", "no_run", "no_experiment.py", "broken.py", "notes.txt", "run")

ENCODER, DECODER = ["--model.address", "encoder"], ["--model.address", "decoder"]
TRAINING = {
    "classify": ENCODER,
    "search": ENCODER,
    "embed": ENCODER,
    "distil": ENCODER,
    "sft": DECODER,
    "dpo": DECODER,
    "reward": DECODER,
    "pretrain": DECODER,
}
SPACE = ["--space", "optimizer.learning_rate=1e-4..1e-2:log", "--trials", "2"]
FOLLOW = ["--from", "reviews.csv", "--end"]
CLASSIFY = ["classify", "--data.address", "reviews.csv", *ENCODER]
DISTIL = ["distil", "--data.address", "chats.jsonl", *DECODER]
SAME = ["encoder", "encoder"]

TAUGHT = (
    "logits(params=Pretrained('encoder'))",
    "cached_logits()",
    *(
        f"hints(params=Pretrained('decoder'), layers={one})"
        for one in ("{0: 9}", "{'encoder.layer.1': 0}", "{}", "'x'")
    ),
    "attention_scores(params=Pretrained('decoder'), layers={9: 0})",
    "relations(params=Pretrained('decoder'), heads=2, layers={0: 'embedding'})",
)
"""A teacher with another vocabulary, none, and layer maps that name nothing."""

BAD = {
    "run": [
        *([name] for name in FILES),
        *(["classify", "--data.address", file, *ENCODER] for file in DATA),
        *([name, "--data.address", file, *model] for name, model in TRAINING.items() for file in FEW),
        *(["continual", "--data.addresses", file, "reviews.csv", *ENCODER] for file in FEW),
        *(["classify", "--data.address", "reviews.csv", "--model.address", it] for it in ("a.xyz", "empty.csv", *RUNS)),
        *([*CLASSIFY, "--out", folder] for folder in ("mine", "run", "older", "cut", "reviews.csv")),
        *([name] for name in TRAINING),
        *([*DISTIL, "--method", f"distillation.{method}", "transfer.full"] for method in TAUGHT),
    ],
    "sweep": [
        *([name, *SPACE] for name in FILES),
        *(["classify", "--data.address", file, *ENCODER, *SPACE] for file in FEW),
        [*CLASSIFY, "--space", "nothing=1..2"],
        [*CLASSIFY, *SPACE, "--objective", "max:acuracy"],
        ["classify", "--data.address", "one_class.csv", *ENCODER, *SPACE, "--folds", "2"],
    ],
    "choose": [
        *([name] for name in FILES),
        *([file, *ENCODER] for file in FEW),
        ["reviews.csv", "--controller", "nobody"],
        ["reviews.csv", "--controller", "nobody", "--json"],
        ["reviews.csv", "--turns", "0", *ENCODER],
        ["reviews.csv", "--evaluation.metric", "acuracy", *ENCODER],
    ],
    "cache-teacher": [
        *([name, "--teacher", "decoder", "--out", "out"] for name in FILES),
        *(["distil", "--data.address", file, *DECODER, "--teacher", "decoder", "--out", "out"] for file in FEW),
        *([*DISTIL, "--teacher", it, "--out", "out"] for it in ("nowhere", "empty.csv", "run", "no_run")),
        *([*DISTIL, "--teacher", "decoder", "--out", place] for place in ("mine", "run", "reviews.csv")),
        *([*DISTIL, "--teacher", "decoder", "--out", "out", f"--{name}", "0"] for name in ("top", "batch")),
        [*DISTIL, "--teacher", "decoder", "--out", "out", "--stored", "float7"],
        DISTIL,
    ],
    "write-answers": [
        *([file, "--teacher", "decoder", "--out", "out"] for file in DATA),
        *(
            ["chats.jsonl", "--teacher", it, "--out", "out"]
            for it in ("nowhere", "empty.csv", "run", "no_run", "encoder")
        ),
        *(["chats.jsonl", "--teacher", "decoder", "--out", place] for place in ("mine", "run", "reviews.csv")),
        *(
            ["chats.jsonl", "--teacher", "decoder", "--out", "out", *words]
            for words in (["--batch", "0"], ["--max-new-tokens", "1000"], ["--temperature", "-1"], ["--top-p", "0.5"])
        ),
        ["chats.jsonl"],
    ],
    "list": [["all"], ["--everything"]],
    "data": [
        *([file] for file in DATA if file != "no_column.csv"),
        ["reviews.csv", "--length", "0"],
        ["reviews.csv", "--split", "tset"],
        ["reviews.csv", "--model", "nowhere"],
    ],
    "methods": [["transfer.lara"]],
    "predict": [*([run, "x"] for run in (*RUNS, "chat")), *(["run", file] for file in DATA), ["run"]],
    "generate": [
        *([run, "x"] for run in (*RUNS, "run")),
        ["chat"],
        *(["chat", "x", "--max-new-tokens", number] for number in ("0", "-3", "1000", "x")),
        *(["chat", "x", "--max-new-tokens", "2", *words] for words in (["--temperature", "-1"], ["--top-p", "7"])),
    ],
    "evaluate": [
        *([run, "--data", "reviews.csv"] for run in RUNS),
        *([run, "--data", file] for run in ("run", "chat") for file in DATA),
        ["run", "--data", "chats.jsonl"],
    ],
    "export": [
        *([run, kind, "out"] for run in RUNS for kind in ("--merged", "--adapter")),
        *([run, "--merged", place] for run in ("run", "chat") for place in ("mine", "reviews.csv", "run")),
        ["run", "--adapter", "mine"],
        ["run"],
    ],
    "stream": [
        *([run, *FOLLOW] for run in (*RUNS, "chat")),
        *([name, *FOLLOW] for name in FILES if name != "run"),
        *(["classify", "--data.address", file, *ENCODER, *FOLLOW] for file in FEW),
        ["run", "--from", "nowhere.jsonl"],
        ["run", "--every", "0"],
    ],
    "report": [*([run] for run in ("nowhere", "reviews.csv", "no_run", "mine", "cut")), ["run", "--out", "mine"]],
    "bench": [["nothing"], ["throughput", "--size", "huge"], ["throughput", "--size", "tiny", "--batch", "0"]],
    "reproduce": [["nothing"], ["all", "--seeds", "0"]],
    "fetch": [["nowhere"], ["pkg://nothing"], ["hf://"], ["zz://x"]],
    "fuse": [
        *([name] for name in FILES),
        *([file] for file in DATA),
        ["no.npz"],
        ["classify", "--seeds", "0"],
        ["classify", "--by", "vote", "--quorum", "2"],
    ],
    "merge": [
        *(["uniform", run, "encoder", "--out", "out"] for run in RUNS),
        ["uniform", "encoder", "decoder", "--out", "out"],
        *(["uniform", *SAME, "--out", place] for place in ("mine", "reviews.csv", "run")),
        ["greedy", *SAME, "--out", "out", "--score", "false"],
        ["nothing", *SAME, "--out", "out"],
    ],
    "lorahub": [
        *([name, "--adapters", "a", "b", "--out", "out"] for name in FILES),
        *([file, *ENCODER, "--adapters", "a", "b", "--out", "out"] for file in FEW),
        *(
            ["reviews.csv", *ENCODER, "--adapters", "mine", other, "--out", "out"]
            for other in ("run", "no_run", "mine")
        ),
        ["reviews.csv", *ENCODER, "--adapters", "run", "--out", "out"],
        *(["reviews.csv", *ENCODER, "--adapters", "run", "cut", "--out", it] for it in ("mine", "reviews.csv")),
        *(["reviews.csv", "--adapters", "a", "b", "--out", "out", f"--{it}", "0"] for it in ("examples", "looks")),
        ["reviews.csv", "--adapters", "a", "b"],
    ],
    "parity": [["nowhere"], ["no_run"], []],
}
"""Words after each command that it must refuse."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, files, and runs of every kind that is not a finished run of this version."""
    here = tmp_path_factory.mktemp("place")
    encoder, decoder = small_runs.encoder_folder(here / "encoder"), small_runs.decoder_folder(here / "decoder")
    reviews, chats = small_runs.texts(here / "reviews.csv"), small_runs.chats(here / "chats.jsonl")
    once = Budget(steps=1, batch_size=2)
    small_runs.run(dataclasses.replace(small_runs.classifier(encoder, reviews, "reviews"), budget=once), here / "run")
    small_runs.run(dataclasses.replace(small_runs.chat(decoder, chats, "chats"), budget=once), here / "chat")
    for name in ("interrupted", "killed", "older", "cut"):
        shutil.copytree(here / "run", here / name)
    for name in ("interrupted", "killed"):
        shutil.rmtree(here / name / "model")
    for name in ("summary.json", ".summary.json"):
        rewrite(here / "interrupted" / name, status="interrupted")
        (here / "killed" / name).unlink()
    rewrite(here / "older" / "model" / "model.json", format=1)
    for name in ("experiment.json", ".experiment.json", "summary.json", ".summary.json"):
        (here / "cut" / name).write_text((here / "run" / name).read_text()[:60])
    (here / "no_run").mkdir()
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("kept for years")
    for name, text in {
        "empty.csv": "",
        "no_rows.csv": "text,label\n",
        "no_column.csv": "a,b\n1,2\n3,4\n",
        "broken.jsonl": '{"text": "a", "label": "b"}\n{"text": \n',
        "list.jsonl": "[1, 2]\n3\n",
        "a.xyz": "text\n",
        "no.npz": "text\n",
        "notes.txt": "a note\n",
        "no_experiment.py": "x = 1\n",
        "broken.py": "x = (\n",
        "one_class.csv": "text,label\n" + "a great film,positive\n" * 9,
    }.items():
        (here / name).write_text(text)
    (here / "binary.csv").write_bytes(bytes(range(256)) * 4)
    return here


def rewrite(file, **fields):
    """A sealed record with other fields, sealed again."""
    record = {name: value for name, value in json.loads(file.read_text()).items() if name != "sha256"}
    file.write_text(json.dumps(seal({**record, **fields})))


def everything_in(folder):
    """Every file with its time and size, but for what Python compiles."""
    found = {path: path.stat() for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {path: (stat.st_mtime_ns if path.is_file() else 0, path.is_file()) for path, stat in found.items()}


def test_every_command_is_given_something_bad():
    assert set(BAD) == set(COMMANDS)


@pytest.mark.parametrize("command", BAD)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = everything_in(place)
    for words in BAD[command]:
        status = main([command, *words])
        told = capsys.readouterr()
        assert status == 2, f"{command} {words} ended with {status}: {told.err}"
        assert not told.out, f"{command} {words} printed {told.out}"
        assert told.err.startswith("error: ") and told.err.count("\n") == 1, f"{command} {words} said {told.err}"
        assert "Errno" not in told.err and "Traceback" not in told.err, f"{command} {words} said {told.err}"
        assert everything_in(place) == before, f"{command} {words} changed files"


def test_a_damaged_summary_is_read_from_its_copy(place, tmp_path, capsys):
    run = shutil.copytree(place / "run", tmp_path / "run")
    (run / "summary.json").write_text("")
    assert main(["predict", str(run), "a great film"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("positive", "negative")
    assert (run / "summary.json").read_text() == ""


@pytest.mark.parametrize(
    "header, form, role",
    [
        ("anchor,positive", "pairs of texts", "read by the model"),
        ("sentence1,sentence2,score", "pairs of sentences", "how close the two are"),
        ("query,passage", "queries and passages", "read by the model"),
        ("prompt,answer", "questions with answers", "what an answer is checked by"),
    ],
)
def test_files_of_every_experiment_are_understood(header, form, role, tmp_path, capsys):
    file = tmp_path / "some.csv"
    file.write_text(f"{header}\n" + ",".join(["a b", "c d", "0.5"][: header.count(",") + 1]) + "\n")
    assert main(["data", str(file)]) == 0
    told = capsys.readouterr().out
    assert f"1 examples, {form}" in told and role in told and "not used" not in told and "unknown" not in told


def test_columns_that_nothing_reads_are_told_which_would_be(place, capsys):
    assert main(["data", str(place / "no_column.csv")]) == 0
    assert (
        "no experiment reads these columns; rename them to those of one: prompt and chosen" in capsys.readouterr().out
    )
