"""A folder that was loaded is saved with what it said: configuration, generation, preprocessing; its ties."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ft_jax import models

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.rglob("config.json") if (path.parent / "model.safetensors").is_file())
IDS = {"input_ids": np.arange(3, 14).reshape(1, -1)}


def edited(name, tmp_path, fields=None, tensors=None, files=None):
    """A copy of a recorded checkpoint with other fields, tensors (None removes) and files."""
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "edited"))
    config = json.loads((folder / "config.json").read_text()) | (fields or {})
    (folder / "config.json").write_text(json.dumps(config))
    stored = load_file(folder / "model.safetensors") | (tensors or {})
    save_file({key: x for key, x in stored.items() if x is not None}, folder / "model.safetensors")
    for file, text in (files or {}).items():
        (folder / file).write_text(text)
    return folder


def saved_config(model, folder, **options):
    return json.loads((models.save(model, model.params, folder, **options) / "config.json").read_text())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_configuration_goes_out_as_it_came_in(folder, tmp_path):
    came = json.loads((folder / "config.json").read_text())
    model = models.load(folder, tokenizer=False)
    saved = saved_config(model, tmp_path / "saved")
    ours = {"ft_jax_head", "architectures", "id2label", "label2id"}
    assert {k: v for k, v in saved.items() if k not in ours} == {k: v for k, v in came.items() if k not in ours}
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert again.config == model.config and again.apply == model.apply


def test_what_is_not_known_here_is_kept_and_what_was_changed_is_not(tmp_path):
    told = {
        "bos_token_id": 5,
        "cls_token_id": 6,
        "sep_token_id": 7,
        "unheard_of": {"a": [1]},
        "quantization_config": {},
    }
    generation = '{"begin_suppress_tokens": [1, 2], "temperature": 0.7}'
    folder = edited(
        "tiny_llama",
        tmp_path,
        told,
        files={"generation_config.json": generation, "preprocessor_config.json": '{"size": 3}'},
    )
    model = models.load(folder, tokenizer=False)
    saved = saved_config(model, tmp_path / "saved")
    assert {k: saved.get(k) for k in told} == told | {"quantization_config": None}
    assert (tmp_path / "saved/generation_config.json").read_text() == generation
    assert (tmp_path / "saved/preprocessor_config.json").read_text() == '{"size": 3}'
    import dataclasses

    other = dataclasses.replace(model.configure(attention_dropout=0.25), stop_tokens=(9,))
    saved = saved_config(other, tmp_path / "other")
    assert saved["attention_dropout"] == 0.25 and saved["eos_token_id"] == [9] and saved["bos_token_id"] == 5
    kept = json.loads((tmp_path / "other/generation_config.json").read_text())
    assert kept == json.loads(generation) | {"eos_token_id": [9]}


def test_an_unembedding_that_differs_from_the_table_it_is_said_to_be_is_kept_and_said(tmp_path):
    table = load_file(GOLDEN / "tiny_qwen2/model.safetensors")["model.embed_tokens.weight"]
    other = np.random.default_rng(0).normal(size=table.shape).astype(np.float32)
    folder = edited("tiny_qwen2", tmp_path, tensors={"lm_head.weight": other})
    with pytest.warns(UserWarning, match="ties 'lm_head.weight' to 'model.embed_tokens.weight', and they differ"):
        model = models.load(folder, tokenizer=False)
    outputs = jax.jit(model.apply)(model.params, IDS)
    np.testing.assert_allclose(outputs.logits, np.asarray(outputs.hidden) @ other.T, rtol=1e-5, atol=1e-5)
    saved = saved_config(model, tmp_path / "saved")
    assert saved["tie_word_embeddings"] is False
    again = models.load(tmp_path / "saved", tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_copy_that_is_equal_or_alone_is_the_tied_table(tmp_path):
    tied = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    table = load_file(GOLDEN / "tiny_qwen2/model.safetensors")["model.embed_tokens.weight"]
    for index, tensors in enumerate(({}, {"model.embed_tokens.weight": None})):
        folder = edited("tiny_qwen2", tmp_path / str(index), tensors={"lm_head.weight": table, **tensors})
        model = models.load(folder, tokenizer=False)
        assert model.config == tied.config
        jax.tree.map(np.testing.assert_array_equal, model.params, tied.params)


def test_a_second_table_that_the_network_has_no_place_for_is_refused(tmp_path):
    table = load_file(GOLDEN / "tiny_bert_lm/model.safetensors")["bert.embeddings.word_embeddings.weight"]
    folder = edited("tiny_bert_lm", tmp_path, tensors={"cls.predictions.decoder.weight": table + 1})
    with pytest.raises(ValueError, match="'cls.predictions.decoder.weight', which differs .* one parameter for both"):
        models.load(folder, tokenizer=False)
    with pytest.warns(UserWarning, match="is taken for both"):
        models.load(folder, tokenizer=False, strict=False)


def test_special_tokens_of_a_tokenizer_are_written_where_no_configuration_came(tmp_path):
    import dataclasses
    from types import SimpleNamespace

    tokens = SimpleNamespace(bos_token_id=3, cls_token_id=None, sep_token_id=4, save_pretrained=lambda folder: None)
    model = dataclasses.replace(models.tiny_decoder(jax.random.key(0)), tokenizer=tokens)
    saved = saved_config(model, tmp_path / "saved")
    assert (saved["bos_token_id"], saved["sep_token_id"]) == (3, 4) and "cls_token_id" not in saved


@pytest.mark.parametrize("value", [-1, None, 10**6])
def test_a_padding_token_that_is_none_is_no_token_and_goes_out_as_it_came(value, tmp_path):
    shutil.copytree(GOLDEN / "tiny_llama", tmp_path / "in")
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps(config | {"pad_token_id": value}))
    model = models.load(tmp_path / "in", tokenizer=False)
    assert model.pad_token == 0
    models.save(model, model.params, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("pad_token_id") == value
