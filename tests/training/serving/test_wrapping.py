"""Runs whose methods wrap the forward pass are used from their folder like any other, through those methods."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data, models
from ft_jax.cli import main
from ft_jax.core import Method, parameters
from ft_jax.core.step import outputs_of
from ft_jax.models.checkpoints.safetensors_file import read_safetensors
from ft_jax.training import Use
from ft_jax.training.serving import answers, load_run, predict
from ft_jax.training.serving.kept import FOLDER, RECORD, WEIGHTS
from ft_jax.training.serving.use import batches


@pytest.fixture(scope="module")
def closed(place, encoder, csv):
    methods = (Use("incremental.slda", shrinkage=0.01), Use("incremental.er_ace", capacity=16, size=4, classes=2))
    return small_runs.run(small_runs.classifier(encoder, csv, "closed", method=methods), place / "closed")


def test_what_is_answered_is_what_the_run_evaluates(closed, csv, capsys):
    kept = load_run(closed.run)
    assert kept.wrapping.method.names == ("incremental.slda", "incremental.er_ace")
    texts = ["the film was great", "awful acting"]
    ((batch, _),) = batches(kept, data.Dataset({"text": texts}))
    wanted = outputs_of(closed.state, closed.composition, closed.model.apply, batch).logits
    np.testing.assert_allclose(kept.compiled()(batch).logits, wanted, rtol=1e-5, atol=1e-5)
    alone = kept.model.apply(kept.model.params, batch).logits
    assert np.abs(np.asarray(alone) - wanted).max() > 0.1
    assert [one.label for one in predict(kept, texts)] == ["positive", "negative"]
    assert main(["evaluate", str(closed.run), "--data", str(csv), "--split", "validation", "--json"]) == 0
    found, own = json.loads(capsys.readouterr().out), closed.scores["after"]["reviews"]
    assert found["accuracy"] == pytest.approx(own["accuracy"]) and found["loss"] == pytest.approx(own["loss"], rel=1e-4)


@pytest.mark.parametrize("command", [["export", "RUN", "--merged", "OUT"], ["stream", "RUN"]])
def test_what_needs_the_model_alone_is_refused(closed, tmp_path, command, capsys):
    replaced = {"RUN": str(closed.run), "OUT": str(tmp_path / "out")}
    assert main([replaced.get(word, word) for word in command]) == 2
    said = capsys.readouterr().err
    assert "answers through incremental.slda, incremental.er_ace, and" in said and said.count("\n") == 1


@pytest.fixture(scope="module")
def bank(place):
    folder, file = small_runs.decoder_folder(place / "decoder"), small_runs.chats(place / "chats.jsonl")
    experiment = small_runs.chat(
        folder, file, "bank", (Use("transfer.bank", adapters=small_runs.adapters(models.load(folder))),)
    )
    experiment = dataclasses.replace(experiment, budget=dataclasses.replace(experiment.budget, steps=2))
    return small_runs.run(experiment, place / "bank")


def test_a_prompt_is_answered_under_the_adapter_that_it_names(bank):
    kept = load_run(bank.run)
    prompts = ["is the film good", "is the film good"]
    told = dict(answers(kept, prompts, max_new_tokens=8, fields={"adapter": [0, 1]}))
    for index, one in enumerate((1.0, 0.0)):
        state = bank.state.with_hyper({"transfer.bank.one": one, "transfer.bank.two": 1 - one})
        shown = dataclasses.replace(kept.model, params=parameters(state, bank.composition)["model"])
        alone = answers(dataclasses.replace(kept, model=shown, wrapping=None), prompts[:1], max_new_tokens=8)
        assert told[index] == "".join(piece for _, piece in alone)
    assert told[0] != told[1]
    with pytest.raises(ValueError, match=r"1 values of 'adapter' for 2 prompts.* read adapter; give a value"):
        list(answers(kept, prompts, fields={"adapter": [0]}))
    with pytest.raises(ValueError, match="2 values of 'lora' for 2 prompts"):
        list(answers(kept, prompts, fields={"lora": [0, 1]}))


def test_the_command_names_the_adapter_too(bank, capsys):
    prompts = ["is the film good", "is the film bad"]
    command = ["generate", str(bank.run), *prompts, "--max-new-tokens", "4", "--json", "--field"]
    for words, indices in (("adapter=1", [1, 1]), ("adapter=1,0", [1, 0])):
        assert main([*command, words]) == 0
        said = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
        told = answers(load_run(bank.run), prompts, max_new_tokens=4, fields={"adapter": indices})
        assert said == [text for _, text in told]
    for words, why in (("adapter", "is not NAME=NUMBER"), ("adapter=1,2,3", "3 values of 'adapter' for 2 prompts")):
        assert main([*command, words]) == 2
        assert why in capsys.readouterr().err


def test_the_base_under_the_adapters_of_a_bank_is_written_once_and_by_its_address_alone(bank):
    folder = Path(bank.run)
    record = json.loads(next(folder.rglob(RECORD)).read_text())
    names = [name for name in record["shared"] if name.startswith("wrapping/methods/0/options/adapters/two")]
    assert any(name.endswith("/base") for name in names)
    written = read_safetensors(next(folder.rglob(WEIGHTS)))
    assert not any(name.endswith("/base") for name in written)


def test_a_forward_pass_that_can_not_be_written_down_is_told_before_the_run(place, encoder, csv):
    experiment = small_runs.classifier(encoder, csv, "own", method=(Method("chooser", forward=lambda inner: inner),))
    result = small_runs.run(experiment, place / "own")
    assert 'chooser wraps the forward pass and was not given as Use("family.method", ...)' in result.summary["unkept"]
    assert not (Path(result.run) / FOLDER).exists()
