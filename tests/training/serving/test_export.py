"""An export answers as the run did, in whatever loads it, or there is none."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from training.serving import small_runs

from ft_jax import models
from ft_jax.cli import main
from ft_jax.models import heads
from ft_jax.training import Use
from ft_jax.training.serving import load_run, read_by
from ft_jax.training.serving.export import NotExpressible, check_same, probe


@pytest.fixture(scope="module")
def runs(place, encoder, csv):
    return {
        pooling: small_runs.run(small_runs.classifier(encoder, csv, pooling, pooling), place / pooling)
        for pooling in ("mean", "pooler")
    }


def test_a_classifier_that_transformers_pools_otherwise_has_no_adapter_and_says_the_remedy(runs, tmp_path, capsys):
    assert main(["export", str(runs["mean"].run), "--adapter", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "pools otherwise than 'mean'" in err and "model.pooling='published'" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_adapter_of_a_poolers_classifier_goes_with_all_that_peft_reads(runs, encoder, tmp_path, capsys):
    folder = tmp_path / "adapter"
    assert main(["export", str(runs["pooler"].run), "--adapter", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "BertForSequenceClassification.from_pretrained" in told and str(encoder) in told
    assert "id2label={0: 'negative', 1: 'positive'}" in told
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(encoder) and config["modules_to_save"] == ["classifier"]
    assert (folder / "tokenizer.json").is_file()
    kept = load_run(runs["pooler"].run)
    _, params = models.load_adapter(folder, kept.original())
    batch = probe(kept.model)
    ours = jax.jit(kept.model.apply)(kept.model.params, batch).logits
    np.testing.assert_allclose(jax.jit(kept.model.apply)(params, batch).logits, ours, atol=1e-6)
    assert main(["export", str(runs["pooler"].run), "--adapter", str(folder)]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_merged_classifier_is_the_class_that_pools_as_it_does(runs, tmp_path):
    assert main(["export", str(runs["pooler"].run), "--merged", str(tmp_path / "whole")]) == 0
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    again, kept = models.load(tmp_path / "whole"), load_run(runs["pooler"].run)
    check_same(kept.model, again)
    assert again.tokenizer("a film")["input_ids"] == kept.model.tokenizer("a film")["input_ids"]


def test_another_pooling_becomes_modules_that_sentence_transformers_runs(runs, tmp_path):
    folder = tmp_path / "sentences"
    assert main(["export", str(runs["mean"].run), "--merged", str(folder)]) == 0
    assert not any(name.startswith("classifier") for name in load_file(folder / "model.safetensors"))
    network, dense = models.load(folder), load_file(folder / "2_Dense" / "model.safetensors")
    batch = probe(network)
    hidden = jax.jit(network.apply)(network.params, batch).hidden
    # What its modules do: the mean over real tokens, then a linear layer.
    mask = batch["attention_mask"][..., None]
    pooled = (np.asarray(hidden) * mask).sum(1) / mask.sum(1)
    kept = load_run(runs["mean"].run)
    logits = jax.jit(kept.model.apply)(kept.model.params, batch).logits
    np.testing.assert_allclose(pooled @ dense["linear.weight"].T + dense["linear.bias"], logits, atol=1e-5)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert [name for name, on in pooling.items() if on is True] == ["pooling_mode_mean_tokens"]
    assert [one["type"].rpartition(".")[2] for one in json.loads((folder / "modules.json").read_text())] == [
        "Transformer", "Pooling", "Dense",
    ]  # fmt: skip


def test_an_export_that_answers_differently_is_refused():
    model = models.tiny_encoder(jax.random.key(0))
    moved = {**model.params, "embeddings": jax.tree.map(lambda leaf: leaf * 1.01, model.params["embeddings"])}
    import dataclasses

    check_same(model, model)
    with pytest.raises(NotExpressible, match="answers differently"):
        check_same(model, dataclasses.replace(model, params=moved))


@pytest.mark.parametrize("kind", [*heads.HEADS, "language_model"])
def test_every_head_has_a_reader_or_a_remedy(kind):
    for model in (models.tiny_encoder(jax.random.key(0)), models.tiny_decoder(jax.random.key(0))):
        outputs = 3 if heads.HEADS.get(kind) and heads.HEADS[kind].outputs is None else None
        headed = models.with_head(model, kind, jax.random.key(1), outputs)
        try:
            assert "For" in (reader := read_by(headed)) or reader in ("BertModel", "sentence-transformers")
        except NotExpressible as error:
            assert "train with model.pooling=" in str(error)


def test_a_chat_model_goes_out_merged_with_its_template_and_its_end(place, tmp_path):
    model, file = small_runs.decoder_folder(place / "decoder"), small_runs.chats(place / "chats.jsonl")
    result = small_runs.run(small_runs.chat(model, file, "chat", (Use("transfer.lora", rank=2),)), place / "chat")
    assert main(["export", str(result.run), "--merged", str(tmp_path / "m"), "--adapter", str(tmp_path / "a")]) == 0
    again = models.load(tmp_path / "m")
    assert again.tokenizer.chat_template and again.stop_tokens == (again.tokenizer.eos_token_id,)
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["eos_token_id"] == [1]
    check_same(load_run(result.run).model, again)
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
