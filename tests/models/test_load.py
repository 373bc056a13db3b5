"""Checkpoints are read whole or refused in one sentence."""

import json
import shutil
import struct
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ft_jax import models
from ft_jax.models.architectures import flat

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "tiny_llama", tmp_path / "model"))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder, error=ValueError, **options):
    with pytest.raises(error) as caught:
        models.load(folder, tokenizer=False, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tensors_are_listed_and_refused(folder):
    rewrite(folder, lambda tensors: {name: tensors[name] for name in tensors if "layers.1.mlp" not in name})
    assert "missing model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_left_over_tensors_are_listed_and_refused_unless_told_to_go_on(folder):
    whole = models.load(folder, tokenizer=False)
    rewrite(folder, lambda tensors: tensors | {"model.surprise": np.ones(3, np.float32)})
    assert "left over model.surprise" in refusal(folder)
    again = models.load(folder, tokenizer=False, strict=False)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)


def test_missing_tensors_can_be_drawn(folder):
    whole = models.load(folder, tokenizer=False)
    rewrite(folder, lambda tensors: {name: tensors[name] for name in tensors if name != "lm_head.weight"})
    assert "pass key=" in refusal(folder, strict=False)
    drawn = models.load(folder, tokenizer=False, strict=False, key=jax.random.key(0))
    assert drawn.params["head"]["kernel"].shape == whole.params["head"]["kernel"].shape
    np.testing.assert_array_equal(drawn.params["norm"]["scale"], whole.params["norm"]["scale"])


def test_a_wrong_shape_is_refused(folder):
    change_config(folder, intermediate_size=50)
    message = refusal(folder)
    assert "mlp.gate_proj.weight' has shape (48, 32) and the configuration says (50, 32)" in message


def test_another_number_of_layers_is_refused(folder):
    change_config(folder, num_hidden_layers=2)
    assert "left over model.layers.2." in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"rope_parameters": 3},
        {"hidden_act": []},
        {"num_hidden_layers": 10**9},
        {"rms_norm_eps": None},
        {"model_type": {}},
    ],
)
def test_a_configuration_with_a_senseless_value_is_refused(folder, changes):
    change_config(folder, **changes)
    assert refusal(folder)


def test_an_unknown_architecture_is_named_with_the_nearest_known(folder):
    change_config(folder, model_type="lama")
    assert "architecture 'lama' is unknown" in refusal(folder) and "nearest: 'llama'" in refusal(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "the file is truncated" in refusal(folder)
    path.write_bytes(whole[:5])
    assert "not a whole safetensors file" in refusal(folder)


def test_a_header_that_claims_more_than_the_file_has_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    assert "header said to take 1152921504606846976" in refusal(folder)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "tensor 'x' ends at byte" in refusal(folder)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "is given 16 bytes" in refusal(folder)


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b'{"x": 1}', b'{"x": {"dtype": "F9", "shape": [], "data_offsets": [0, 1]}}']
)
def test_a_header_that_is_no_header_is_refused(folder, header):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "model.safetensors" in refusal(folder)


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "are never read" in refusal(folder, FileNotFoundError)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "neither config.json nor exactly one GGUF file" in refusal(tmp_path, FileNotFoundError)


def test_shards_are_joined_and_a_missing_one_is_named(folder):
    whole = models.load(folder, tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    jax.tree.map(np.testing.assert_array_equal, whole.params, models.load(folder, tokenizer=False).params)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(folder, FileNotFoundError)


def test_a_shard_outside_the_folder_is_refused(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))
    assert "not a file of its own folder" in refusal(folder)


def test_half_precision_files_are_read_as_float32_or_kept(folder):
    whole = models.load(folder, tokenizer=False)
    rewrite(folder, lambda tensors: {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()})
    read = models.load(folder, tokenizer=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01), whole.params, read.params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(read.params)} == {"float32"}
    kept = models.load(folder, tokenizer=False, storage="bfloat16", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept.params)} == {"bfloat16"}
    assert kept.config.dtype == "bfloat16"


def test_an_abstract_model_has_the_shapes_and_reads_no_tensor(folder):
    whole = models.load(folder, tokenizer=False)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\xff" * 4)
    abstract = models.load(folder, tokenizer=False, abstract=True)
    assert {path: leaf.shape for path, leaf in flat(abstract.params).items()} == {
        path: leaf.shape for path, leaf in flat(whole.params).items()
    }
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract.params))
    assert abstract.parameters == whole.parameters


def test_names_are_found_under_the_prefix_of_a_checkpoint_with_a_head(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "tiny_bert", tmp_path / "model"))
    whole = models.load(folder, tokenizer=False)
    rewrite(folder, lambda tensors: {f"bert.{name}": x for name, x in tensors.items()})
    jax.tree.map(np.testing.assert_array_equal, whole.params, models.load(folder, tokenizer=False).params)


def test_bert_s_pooler_gives_its_tanh_layer_over_the_first_token():
    model = models.load(GOLDEN / "tiny_bert", tokenizer=False)
    classifier = models.with_classifier(model, 2, jax.random.key(0), "pooler")
    ids = np.array([[3, 4, 5]])
    hidden = model.apply(model.params, {"input_ids": ids}).hidden[:, 0]
    pooler = model.params["pooler"]
    got = classifier.apply(classifier.params, {"input_ids": ids}).hidden
    np.testing.assert_allclose(got, np.tanh(hidden @ pooler["kernel"] + pooler["bias"]), atol=1e-5)


def test_stop_tokens_come_from_the_checkpoint():
    assert models.load(GOLDEN / "tiny_llama", tokenizer=False).stop_tokens == (2,)
