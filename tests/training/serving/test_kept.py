"""A run's folder is enough to use its model, and what can't be used says so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from training import small
from training.serving import small_runs

import ft_jax
from ft_jax import attention, transfer
from ft_jax.cli import main
from ft_jax.core import compose, make_step, parameters, supervised
from ft_jax.training import Budget, Experiment, Use
from ft_jax.training.serving import keep, load_run
from ft_jax.training.serving.export import probe
from ft_jax.training.serving.of_run import base_of
from ft_jax.training.specs import Images, Perceptron, Pretrained


@pytest.fixture(scope="module")
def tuned(place, encoder, csv):
    return small_runs.run(small_runs.classifier(encoder, csv, "kept"), place / "run")


HEAD = ("*/head/*",)
METHODS = {
    "everything learns": transfer.full(),
    "operators": transfer.dora(rank=2, also=HEAD),
    "grafts": attention.p_tuning_v2(length=2, also=HEAD),
    "a base that changed": transfer.pissa(rank=2, also=HEAD),
    "a packed base": compose(transfer.lora(rank=2, also=HEAD), transfer.quantize(format="int8")),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_kept_model_answers_as_the_run_ended(name, encoder, tmp_path):
    spec = Pretrained(str(encoder), classes=2)
    model, method = spec.build(jax.random.key(1)), METHODS[name]
    state = make_step(supervised(model.apply), optax.identity(), method).init(model.params, jax.random.key(2))
    moved = state.replace(params=jax.tree.map(lambda leaf: leaf * 1.1 + 0.01, state.params))
    params = parameters(moved, method)["model"]
    (tmp_path / "experiment.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    keep(tmp_path, model, params, base_of(spec), {"length": 7})
    kept = load_run(tmp_path)
    batch, apply = probe(model), jax.jit(model.apply)
    np.testing.assert_array_equal(apply(kept.model.params, batch).logits, apply(params, batch).logits)
    assert kept.model.apply == model.apply and kept.reads == {"length": 7}
    assert kept.model.tokenizer("a film")["input_ids"] == model.tokenizer("a film")["input_ids"]


def test_what_the_base_gives_is_not_kept_again(tuned, encoder):
    assert (tuned.run / "model" / "weights.safetensors").stat().st_size < 0.5 * (
        encoder / "model.safetensors"
    ).stat().st_size


def test_another_base_is_refused(tuned, place, encoder, tmp_path):
    other = shutil.copytree(encoder, tmp_path / "other")
    raw = bytearray((other / "model.safetensors").read_bytes())
    raw[8 + int.from_bytes(raw[:8], "little") + 100] ^= 1
    (other / "model.safetensors").write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="is not the model that run .* stands on"):
        load_run(tuned.run, base=str(other))
    moved = shutil.copytree(encoder, tmp_path / "moved")
    assert load_run(tuned.run, base=str(moved)).model.params["head"]["kernel"].shape == (16, 2)


def test_a_run_of_a_model_without_an_address_keeps_all_of_it(place):
    experiment = Experiment("digits", Perceptron(widths=(8,)), Images(), budget=Budget(steps=1, batch_size=8))
    result = small_runs.run(experiment, place / "digits")
    kept = load_run(result.run)
    assert kept.base is None
    jax.tree.map(np.testing.assert_array_equal, kept.model.params, result.params)


def test_a_model_that_only_its_file_builds_is_told_at_the_start_and_refused_after(place, capsys):
    result = small_runs.run(Experiment("own", small.Linear(), small.Points(), budget=Budget(steps=1)), place / "own")
    events = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    told = [event["message"] for event in events if event.get("cause") == "model"]
    assert told and "OwnModel, which only the experiment's own file can build" in told[0]
    assert main(["predict", str(result.run), "a film"]) == 2
    assert "kept no model: the model is a OwnModel" in capsys.readouterr().err


COMMANDS = (
    ["predict", "RUN", "x"],
    ["generate", "RUN", "x"],
    ["evaluate", "RUN", "--data", "FILE"],
    ["export", "RUN", "--merged", "OUT"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_what_is_no_finished_run_is_one_sentence(command, tuned, csv, tmp_path, capsys):
    cases = {"nowhere": "is not a folder", "empty": "holds no run", "stopped": "it is interrupted", "old": "format 99"}
    (tmp_path / "empty").mkdir()
    for name in ("stopped", "old"):
        shutil.copytree(tuned.run, tmp_path / name)
    (tmp_path / "stopped" / "summary.json").write_text('{"status": "interrupted"}')
    record = json.loads((tuned.run / "model" / "model.json").read_text())
    (tmp_path / "old" / "model" / "model.json").write_text(json.dumps({**record, "format": 99}))
    for name, told in cases.items():
        replaced = {"RUN": str(tmp_path / name), "FILE": str(csv), "OUT": str(tmp_path / "out")}
        assert main([replaced.get(word, word) for word in command]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_predict_needs_nothing_but_the_folder(tuned, tmp_path):
    code = "import sys; from ft_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["predict", str(tuned.run.resolve()), "a good film", "the plot was awful"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ft_jax.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a good film", "the plot was awful"]
    assert all(row["probabilities"].keys() == {"negative", "positive"} for row in rows)
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in rows)


def test_evaluate_gives_the_runs_own_scores(tuned, csv, capsys):
    assert main(["evaluate", str(tuned.run), "--data", str(csv), "--split", "validation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = tuned.scores["after"]["reviews"]
    assert found["accuracy"] == pytest.approx(wanted["accuracy"])
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


def test_generate_streams_what_the_model_was_taught(place, capsys):
    model, file = small_runs.decoder_folder(place / "decoder"), small_runs.chats(place / "chats.jsonl")
    result = small_runs.run(small_runs.chat(model, file, "chat", (Use("transfer.full"),)), place / "chat")
    assert main(["generate", str(result.run), "is the film good", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == "the film is great\n"
    assert main(["generate", str(result.run), "hi", "hi you", "--json", "--max-new-tokens", "4"]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["you", "hi"]
    assert main(["predict", str(result.run), "hi"]) == 2
    assert "gives no classes" in capsys.readouterr().err
