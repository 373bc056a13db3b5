"""GGUF files of Qwen 3, Gemma 3 and Llama 3.x, and sentencepiece tokenizers in GGUF files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.gguf_writing import begun, finished
from safetensors.numpy import load_file

from ft_jax import assets, models
from ft_jax.models.architectures.gguf_decoders import read_llama
from ft_jax.models.checkpoints.tokenizers import tokenizer_of_gguf
from ft_jax.models.networks.parts.rope import Linear, Llama3, LongRope

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_": "attn_q_",
    "self_attn.k_": "attn_k_",
    "self_attn.v_": "attn_v_",
    "_proj": "",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
POST_ATTENTION = {"qwen3": "ffn_norm", "gemma3": "post_attention_norm"}


def written(path, kind, **metadata):
    """A GGUF file of the tiny checkpoint, as llama.cpp's convert_hf_to_gguf.py names and shifts its tensors."""
    config = models.load(GOLDEN / "decoders" / kind, tokenizer=False).config
    writer = begun(path, kind, config)
    writer.add_key_length(config.head_width)
    writer.add_token_list([f"<{i}>" for i in range(config.vocabulary)])
    for name, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add)(f"{kind}.{name.replace('__', '.')}", value)
    for name, array in load_file(GOLDEN / "decoders" / kind / "model.safetensors").items():
        if kind == "gemma3" and name.endswith("norm.weight"):
            array = array + 1
        name = name.replace("post_attention_layernorm", POST_ATTENTION[kind])
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, array)
    finished(writer)
    return path


def test_gemma_3_norms_are_shifted_in_the_file_already(tmp_path):
    expected = models.load(GOLDEN / "decoders" / "gemma3", tokenizer=False)
    more = {"attention__sliding_window": 4, "rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    got = models.load(written(tmp_path / "x.gguf", "gemma3", **more), tokenizer=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got.params, expected.params)
    config = got.config
    assert config.window == 4 and config.rope_scaling == Linear(4.0) and config.local_rope_theta == 10000.0
    assert [config.kind(i)[0] for i in range(3)] == [True] * 3 and config.windowed == (True,) * 5 + (False,)
    assert config.embedding_scale == 4.0 and config.attention_scale == 8**-0.5 and config.tied


def test_qwen_3_is_read_with_its_query_and_key_norms(tmp_path):
    expected = models.load(GOLDEN / "decoders" / "qwen3", tokenizer=False)
    with pytest.raises(ValueError, match=r"left over blk.0.attn_k.bias"):
        models.load(written(tmp_path / "x.gguf", "qwen3"), tokenizer=False)
    got = models.load(tmp_path / "x.gguf", tokenizer=False, strict=False)
    for part in ("query_norm", "key_norm"):
        norms = (model.params["layers"]["1"]["attention"][part]["scale"] for model in (got, expected))
        np.testing.assert_array_equal(*norms)
    assert got.config.query_key_norms and got.config.head_width == 8 and got.config.family == "qwen3"


def llama_metadata(**more):
    names = {"embedding_length": 64, "attention.head_count": 4, "block_count": 2, "feed_forward_length": 96}
    names |= {"context_length": 64, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0}
    return {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a"], **more} | {
        f"llama.{name}": value for name, value in names.items()
    }


def test_llama_3_s_divisors_give_its_scaling_back():
    scaling = Llama3(32.0, 1.0, 4.0, 8192)
    plain = 500000.0 ** (-np.arange(0, 16, 2) / 16)
    divisors = plain / np.asarray(scaling.frequencies(500000.0, 16, jnp.int32(1)))
    config = read_llama(llama_metadata(**{"rope_freqs.weight": divisors.tolist()}), set())
    assert config.rope_scaling == scaling
    other = read_llama(llama_metadata(**{"rope_freqs.weight": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}), set())
    assert isinstance(other.rope_scaling, LongRope) and other.rope_scaling.magnitude == 1.0
    got = other.rope_scaling.frequencies(500000.0, 16, jnp.int32(9))
    np.testing.assert_allclose(got, plain / np.arange(1, 9), rtol=1e-5)


def test_a_scaling_that_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match="rope scaling 'yarn'"):
        read_llama(llama_metadata(**{"llama.rope.scaling.type": "yarn"}), set())


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(architecture, pieces, **more):
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *pieces]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    return {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
    }


def test_a_sentencepiece_tokenizer_merges_by_score_and_falls_back_to_bytes(tmp_path):
    pieces = ["▁hell", "▁he", "ll", "lo", "▁h", "l", "o", "h", "e", "▁"]
    tokenizer = tokenizer_of_gguf(sentencepiece("llama", pieces), tmp_path)
    ids = tokenizer("hello é</s>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁hell", "o", "▁", "<0xC3>", "<0xA9>", "</s>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello é"
    bare = tokenizer_of_gguf(sentencepiece("llama", pieces, add_bos_token=False, add_space_prefix=False), tmp_path)
    assert bare.convert_ids_to_tokens(bare("hello")["input_ids"]) == ["h", "e", "ll", "o"]


def test_gemma_s_merges_follow_the_order_of_its_tokens(tmp_path):
    pieces = ["  ", "ab", "bc", "▁", "a", "b", "c"]
    tokenizer = tokenizer_of_gguf(sentencepiece("gemma3", pieces), tmp_path)
    ids = tokenizer("abc  a")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "ab", "c", "▁▁", "a"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc  a"


@pytest.mark.slow
def test_gemma_3_270m_equals_the_reference():
    arrays = np.load(GOLDEN / "gemma3_270m.npz")
    model = models.load(assets.GEMMA3_270M)
    run = jax.jit(lambda params, ids: model.apply(params, {"input_ids": ids}).logits[0])
    for i, text in enumerate(arrays["texts"]):
        ids = arrays[f"input_ids/{i}"]
        assert model.tokenizer(str(text))["input_ids"] == ids.tolist()
        got, expected = np.asarray(run(model.params, ids[None]))[:, ::4099], arrays[f"strided/{i}"]
        assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-4
    tokens = models.generate(model, model.params, arrays["input_ids/0"][None], max_new_tokens=12, stop_tokens=()).tokens
    np.testing.assert_array_equal(tokens[0], arrays["greedy"])
