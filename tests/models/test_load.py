"""Checkpoints are read whole or refused in one sentence."""

import dataclasses
import functools
import json
import shutil
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from ft_jax import assets, models
from ft_jax.core.weights import quantize
from ft_jax.models.architectures import Tensor, flat
from ft_jax.models.architectures.naming import Part
from ft_jax.models.checkpoints.placement import assemble
from ft_jax.models.checkpoints.stored import Stored

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
    "header",
    [
        b"{",
        b"[]",
        b'{"x": 1}',
        b'{"x": {"dtype": "F9", "shape": [], "data_offsets": [0, 1]}}',
        b'{"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_is_no_header_is_refused(folder, header):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "model.safetensors" in refusal(folder)


def test_tensors_that_share_bytes_are_refused(folder):
    entry = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    header = json.dumps({"x": entry, "y": entry | {"data_offsets": [4, 12]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "tensors 'x' and 'y' share bytes" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"x": 3}}'])
def test_an_index_that_is_no_index_is_refused(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(folder)


def test_a_tensor_that_the_index_names_and_no_shard_holds_is_refused(folder):
    tensors = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": tensors | {"x": "model.safetensors"}})
    )
    assert "names tensor 'x', which no shard holds" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_corrupt_json_is_refused(folder, name):
    (folder / name).write_bytes(b'{"a": ' + b"\xff")
    assert f"{name} is not JSON" in refusal(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    whole = models.load(assets.MINILM)
    small = models.tiny_encoder(jax.random.key(0), vocabulary=100)
    models.save(dataclasses.replace(small, tokenizer=whole.tokenizer), small.params, tmp_path / "mixed")
    with pytest.raises(ValueError, match="tokenizer of 30522 tokens and a table of 100 rows"):
        models.load(tmp_path / "mixed")
    assert models.load(tmp_path / "mixed", tokenizer=False).config.vocabulary == 100


def test_tensors_go_straight_into_their_sharding(folder, monkeypatch):
    whole = models.load(folder, tokenizer=False)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("fsdp", "tensor"))
    # Slabs of a few rows, so that their seams are tried.
    monkeypatch.setattr("ft_jax.models.checkpoints.placement.SLAB_BYTES", 1000)

    def sharding(path, shape):
        assert path.startswith("model/")
        return NamedSharding(mesh, P("fsdp", "tensor") if len(shape) == 2 else P())

    sharded = models.load(folder, tokenizer=False, sharding=sharding)
    jax.tree.map(np.testing.assert_array_equal, whole.params, sharded.params)
    kernel = sharded.params["layers"]["0"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == P("fsdp", "tensor") and kernel.addressable_shards[0].data.shape == (16, 12)
    halved = models.load(folder, tokenizer=False, sharding=sharding, storage="bfloat16")
    assert halved.params["layers"]["0"]["mlp"]["up"]["kernel"].sharding.spec == P("fsdp", "tensor")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16), b), whole.params, halved.params)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("a", transposed=True),
        Tensor("a"),
        Tensor("a", transposed=True, part=Part(1, (8, 16, 16))),
        Tensor("a", part=Part(0, (5, 25), axis=1)),
        Tensor("a", transposed=True, more=("b", "c")),
        Tensor("a", offset=1.0),
        Tensor("a", heads=5),
    ],
)
def test_slabs_give_what_reading_whole_gives(tensor, monkeypatch):
    monkeypatch.setattr("ft_jax.models.checkpoints.placement.SLAB_BYTES", 700)
    arrays = [np.random.default_rng(i).normal(size=(40, 30)).astype(np.float32) for i in range(len(tensor.names))]
    most = []

    def slab(x, begin, end):
        most.append(x[begin:end].nbytes)
        return x[begin:end]

    stored = [Stored(x.shape, lambda x=x: x, slab=functools.partial(slab, x)) for x in arrays]
    whole = tensor.read(*arrays)
    assert tensor.stored_shape(whole.shape) == (40, 30)
    windows = [(slice(None),) * whole.ndim, (slice(1, 3), slice(2, 11), slice(4, 17))[-whole.ndim :]]
    for window in windows:
        got = assemble(tensor, stored, whole.shape, window, np.float32)
        np.testing.assert_array_equal(got, whole[window])
    assert max(most, default=0) <= 700 and (most or tensor.heads)


@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_projections_are_quantised_as_they_are_read(folder, format):
    whole = models.load(folder, tokenizer=False)
    got = models.load(folder, tokenizer=False, quantize=format)
    for path, dense in flat(whole.params).items():
        weight = flat(got.params)[path]
        if path.startswith("layers/") and path.endswith("kernel"):
            expected = quantize(dense, format)
            np.testing.assert_array_equal(weight.codes, expected.codes)
            np.testing.assert_allclose(weight.scales, expected.scales, rtol=1e-6)
        else:
            np.testing.assert_array_equal(weight, dense)
    with pytest.raises(ValueError, match="'nf4', 'int8', 'keep'"):
        models.load(folder, tokenizer=False, quantize="int3")


def test_quantised_codes_have_their_own_sharding(folder):
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))

    def sharding(path, shape):
        return NamedSharding(mesh, P("fsdp") if path.endswith("/codes") else P())

    kernel = models.load(folder, tokenizer=False, quantize="nf4", sharding=sharding).params["layers"]["0"]["mlp"]["up"]
    assert kernel["kernel"].codes.sharding.spec == P("fsdp") and kernel["kernel"].scales.sharding.spec == P()


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
