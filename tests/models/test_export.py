"""What is saved loads back, and holds what transformers expects."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ft_jax import assets, models
from ft_jax.core.grafts import Graft, graft
from ft_jax.core.params import replace_weights
from ft_jax.core.weights import LowRank, Scaled, merge

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = jax.random.key(0)
TINY = ["tiny_bert", "tiny_llama", "tiny_qwen2"]
IDS = {"input_ids": np.arange(3, 14).reshape(1, -1)}


@pytest.mark.parametrize("name", TINY)
def test_a_round_trip_is_bitwise_the_published_file(name, tmp_path):
    model = models.load(GOLDEN / name, tokenizer=False)
    models.save(model, model.params, tmp_path / "saved")
    saved, original = load_file(tmp_path / "saved/model.safetensors"), load_file(GOLDEN / name / "model.safetensors")
    assert sorted(saved) == sorted(original)
    for tensor in original:
        np.testing.assert_array_equal(saved[tensor], original[tensor], err_msg=tensor)


@pytest.mark.parametrize("name", TINY)
def test_the_saved_configuration_says_what_the_published_one_says(name, tmp_path):
    model = models.load(GOLDEN / name, tokenizer=False)
    models.save(model, model.params, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    original = json.loads((GOLDEN / name / "config.json").read_text())
    assert saved == original
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert again.config == model.config
    assert (again.stop_tokens, again.pad_token) == (model.stop_tokens, model.pad_token)


@pytest.mark.parametrize("name", TINY)
def test_adapters_are_merged_when_saved(name, tmp_path):
    model = models.load(GOLDEN / name, tokenizer=False)

    def change(path, weight, key):
        inputs, outputs = weight.shape
        a, b = jax.random.normal(key, (inputs, 2)), jax.random.normal(key, (2, outputs))
        return Scaled(LowRank(weight, a, b, jnp.float32(0.1)), 1 + 0.1 * jax.random.normal(key, (outputs,)))

    adapted = replace_weights(model.params, ("layers/*/kernel",), change, jax.random.key(0))
    models.save(model, adapted, tmp_path / "saved")
    again = models.load(tmp_path / "saved", tokenizer=False)
    got, expected = again.apply(again.params, IDS).logits, model.apply(adapted, IDS).logits
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
    assert jax.tree.structure(merge(adapted)) == jax.tree.structure(again.params)


@pytest.mark.parametrize(("name", "pooling"), [("tiny_bert", "mean"), ("tiny_llama", "last"), ("tiny_qwen2", "mean")])
def test_a_classifier_keeps_its_head_and_pooling(name, pooling, tmp_path):
    model = models.with_classifier(models.load(GOLDEN / name, tokenizer=False), 3, jax.random.key(0), pooling)
    models.save(model, model.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved", tokenizer=False)
    np.testing.assert_array_equal(again.apply(again.params, IDS).logits, model.apply(model.params, IDS).logits)
    assert again.apply == model.apply


def test_a_tokenizer_of_a_folder_makes_the_round_trip(tmp_path):
    model = models.load(assets.MINILM)
    models.save(model, model.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    text = "A wonderful little film, naïve café — £5!"
    assert again.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]


def test_a_tokenizer_of_a_gguf_file_makes_the_round_trip(tmp_path):
    model = models.load(assets.SMOLLM2, abstract=True)
    small = models.decoder(models.tiny_decoder(None, vocabulary=49152).config, jax.random.key(0))
    small = models.Model(small.config, small.params, small.apply, model.tokenizer, model.stop_tokens, model.pad_token)
    models.save(small, small.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved")
    chat = [{"role": "user", "content": "Add 12 and 345, don't round."}]
    texts = [
        t.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for t in (again.tokenizer, model.tokenizer)
    ]
    assert texts[0] == texts[1]
    assert again.tokenizer(texts[0])["input_ids"] == model.tokenizer(texts[1])["input_ids"]
    assert again.stop_tokens == model.stop_tokens


@pytest.mark.parametrize("most", [1, 20_000, 60_000])
def test_shards_hold_the_same_tensors_and_no_more_than_they_may(most, tmp_path):
    model = models.load(GOLDEN / "tiny_llama", tokenizer=False)
    folder = models.save(model, model.params, tmp_path / "saved", max_shard_bytes=most)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    original = load_file(GOLDEN / "tiny_llama/model.safetensors")
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in original.values())
    assert sorted(index["weight_map"]) == sorted(original)
    shards = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert sorted(shards) == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for tensors in shards.values():
        assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= most
    for name, shard in index["weight_map"].items():
        np.testing.assert_array_equal(shards[shard][name], original[name])
    again = models.load(folder, tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_type_for_the_file_can_be_chosen(tmp_path):
    model = models.load(GOLDEN / "tiny_llama", tokenizer=False)
    folder = models.save(model, model.params, tmp_path / "saved", dtype="bfloat16")
    tensors = load_file(folder / "model.safetensors")
    assert {x.dtype.name for x in tensors.values()} == {"bfloat16"}
    expected = load_file(GOLDEN / "tiny_llama/model.safetensors")["lm_head.weight"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(tensors["lm_head.weight"], expected)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    kept = models.load(folder, tokenizer=False, storage=None)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept.params)} == {"bfloat16"}


def test_scanned_layers_are_saved_as_the_unrolled_ones(tmp_path):
    model = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    scanned = model.configure(scan=True)
    patterns = ("*/query/kernel",)
    adapted = replace_weights(
        {"model": scanned.params}, patterns, lambda path, weight, key: Scaled(weight, jnp.arange(32.0)), KEY
    )["model"]
    models.save(scanned, adapted, tmp_path / "saved")
    saved, original = (
        load_file(tmp_path / "saved/model.safetensors"),
        load_file(GOLDEN / "tiny_qwen2/model.safetensors"),
    )
    assert sorted(saved) == sorted(original)
    for name, tensor in original.items():
        scale = np.arange(32.0, dtype=np.float32) if "q_proj" in name else 1
        scale = scale[:, None] if "q_proj.weight" in name else scale
        np.testing.assert_array_equal(saved[name], tensor * scale, err_msg=name)


def test_what_is_no_weight_is_refused_before_anything_is_written(tmp_path):
    model = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    grafted = graft(model.params, "layers/1/attention", "attention.prefix", Graft())
    with pytest.raises(ValueError, match="layers/1/attention has additions that are no weights"):
        models.save(model, grafted, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    model = models.load(GOLDEN / "tiny_bert", tokenizer=False)
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "precious").write_text("x")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        models.save(model, model.params, folder)
    assert (folder / "precious").read_text() == "x"
    models.save(model, model.params, folder, overwrite=True)
    assert not (folder / "precious").exists() and (folder / "config.json").is_file()


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    import importlib

    export = importlib.import_module("ft_jax.models.checkpoints.export")
    model = models.load(GOLDEN / "tiny_bert", tokenizer=False)

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(export, "write_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        models.save(model, model.params, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_foreign_parameters_and_networks_without_a_format_are_refused(tmp_path):
    model = models.load(GOLDEN / "tiny_bert", tokenizer=False)
    with pytest.raises(ValueError, match="unknown \\['extra'\\]"):
        models.save(model, model.params | {"extra": jnp.ones(1)}, tmp_path / "saved")
    mlp = models.mlp(models.MLPConfig(image=(2, 2, 1), widths=(3,)), jax.random.key(0))
    with pytest.raises(ValueError, match="MLPConfig has no published format"):
        models.save(mlp, mlp.params, tmp_path / "saved")
