"""GGUF files: llama.cpp's layout undone, the tokenizer built, corrupt files refused."""

import shutil
import struct
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from models.gguf_writing import begun, finished
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.core.weights import merge
from ft_jax.models.checkpoints.gguf_file import read_gguf
from ft_jax.models.checkpoints.gguf_weights import Blocks

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ALPHABET = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))] + [chr(256 + i) for i in range(68)]


def interleaved(weights, heads):
    """llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write(path, name, quantization=None, tokens=96):
    config = models.load(GOLDEN / name, tokenizer=False).config
    kind = name.removeprefix("tiny_")
    writer = begun(path, kind, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    vocabulary = ["<|end|>", "<|user|>", *ALPHABET, "he", "ll", "hell"][: max(tokens, 0)]
    vocabulary += [f"<unused{i}>" for i in range(tokens - len(vocabulary))]
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for message in messages %}<|user|>{{ message['content'] }}<|end|>{% endfor %}")
    for tensor, array in load_file(GOLDEN / name / "model.safetensors").items():
        if kind == "llama" and ("q_proj" in tensor or "k_proj" in tensor):
            array = interleaved(array, config.heads if "q_proj" in tensor else config.key_value_heads)
        for theirs, ours in NAMES.items():
            tensor = tensor.replace(theirs, ours)
        if quantization is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(array, quantization)
            writer.add_tensor(tensor, packed, raw_dtype=quantization)
        else:
            writer.add_tensor(tensor, array)
    finished(writer)
    return path


def test_llama_cpp_s_rotary_layout_is_undone(tmp_path):
    # The tiny Llama's rope scaling is not in the file, so parameters are compared, not outputs.
    expected = models.load(GOLDEN / "tiny_llama", tokenizer=False)
    got = models.load(write(tmp_path / "x.gguf", "tiny_llama"), tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


def test_biases_are_read_and_a_tied_head_is_seen(tmp_path):
    expected = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    got = models.load(write(tmp_path / "x.gguf", "tiny_qwen2"), tokenizer=False)
    ids = {"input_ids": np.arange(3, 10)[None]}
    np.testing.assert_allclose(
        got.apply(got.params, ids).logits, expected.apply(expected.params, ids).logits, atol=1e-5
    )
    assert got.config.tied and got.config.biases


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_quantised_tensors_are_dequantised(tmp_path, kind):
    expected = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    path = write(tmp_path / "x.gguf", "tiny_qwen2", gguf.GGMLQuantizationType[kind])
    got = models.load(path, tokenizer=False)
    error = {"Q4_1": 0.06, "Q8_0": 0.005, "F16": 0.001}[kind]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=error), got.params, expected.params)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen2"])
def test_blocks_kept_are_exactly_the_dequantised_weights(tmp_path, name, kind):
    path = write(tmp_path / "x.gguf", name, gguf.GGMLQuantizationType[kind])
    dense = models.load(path, tokenizer=False)
    got = models.load(path, tokenizer=False, quantize="keep")
    weight = got.params["layers"]["0"]["attention"]["query"]["kernel"]
    assert isinstance(weight, Blocks) and weight.format == kind and weight.shape == (32, 32)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(merge)(got.params), dense.params)
    ids = {"input_ids": np.arange(3, 10)[None]}
    logits = [jax.jit(model.apply)(model.params, ids).logits for model in (got, dense)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    bytes_kept = sum(leaf.nbytes for leaf in jax.tree.leaves(weight))
    assert bytes_kept * 8 / 1024 == {"Q4_0": 4.5, "Q4_1": 5.0, "Q8_0": 8.5}[kind]


def test_blocks_of_formats_that_can_t_be_kept_are_dequantised(tmp_path):
    path = write(tmp_path / "x.gguf", "tiny_qwen2", gguf.GGMLQuantizationType.Q5_0)
    got, dense = models.load(path, tokenizer=False, quantize="keep"), models.load(path, tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, got.params, dense.params)


def test_a_type_that_can_t_be_dequantised_is_refused_before_anything_is_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("x", np.zeros((2, 40), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    finished(writer)
    with pytest.raises(ValueError, match="tensor 'x' has type Q8_1, which can't be dequantised here"):
        read_gguf(tmp_path / "x.gguf")


def test_a_folder_with_one_gguf_file_is_a_model(tmp_path):
    write(tmp_path / "x.gguf", "tiny_qwen2")
    assert models.load(tmp_path, tokenizer=False).config.width == 32


def test_the_tokenizer_merges_splits_digits_and_knows_special_tokens(tmp_path):
    tokenizer = models.load(write(tmp_path / "x.gguf", "tiny_qwen2", tokens=288), strict=False, abstract=True).tokenizer
    assert tokenizer.tokenize("hello 12<|end|>") == ["hell", "o", "Ġ", "1", "2", "<|end|>"]
    assert tokenizer.decode(tokenizer("héllo 12")["input_ids"]) == "héllo 12"
    assert tokenizer.eos_token_id == 0
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|user|>hi<|end|>"


def refusal(path):
    with pytest.raises(ValueError) as caught:
        models.load(path, tokenizer=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_refused(tmp_path):
    whole = write(tmp_path / "x.gguf", "tiny_llama").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (5, 20, 60, 400, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        assert "truncated" in refusal(cut)


def test_counts_beyond_the_file_are_refused_before_allocation(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 50, 0))
    assert f"claims {1 << 50} bytes" in refusal(path)


def test_what_is_no_gguf_is_refused(tmp_path):
    path = Path(shutil.copy(GOLDEN / "tiny_llama" / "config.json", tmp_path / "x.gguf"))
    assert "no GGUF file" in refusal(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    assert "is GGUF version 1" in refusal(path)


def test_an_unknown_tokenizer_is_refused_with_a_remedy(tmp_path):
    from ft_jax.models.checkpoints.tokenizers import tokenizer_of_gguf

    with pytest.raises(ValueError, match="tokenizer=False"):
        tokenizer_of_gguf({"tokenizer.ggml.model": "t5"}, tmp_path)


def test_metadata_of_every_type_is_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    values = {"a.int": -3, "a.float": 0.5, "a.text": "é", "a.flag": True, "a.list": [1, 2], "a.texts": ["x", "y"]}
    writer.add_int32("a.int", -3)
    writer.add_float32("a.float", 0.5)
    writer.add_string("a.text", "é")
    writer.add_bool("a.flag", True)
    writer.add_array("a.list", [1, 2])
    writer.add_array("a.texts", ["x", "y"])
    finished(writer)
    metadata = read_gguf(tmp_path / "x.gguf").metadata
    assert {name: metadata[name] for name in values} == values
