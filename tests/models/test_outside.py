"""What comes from outside runs nothing, and each field of it is checked where it is read."""

import io
import json
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from models.gguf_writing import begun, finished
from tokenizers import Tokenizer
from tokenizers import models as kinds

from ft_jax import models
from ft_jax.models.checkpoints.gguf_file import read_gguf
from ft_jax.models.checkpoints.published import Config
from ft_jax.models.checkpoints.safetensors_file import read_safetensors
from ft_jax.models.peft.files import load_adapter
from ft_jax.outside import checked

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "tiny_llama", tmp_path / "model"))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def said(call, *arguments, error=ValueError, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_code_beside_a_tokenizer_never_runs(folder, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    Tokenizer(kinds.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "tok.py").write_text(
        f"open({str(canary)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\nclass Tok(PreTrainedTokenizerFast): pass\n"
    )
    told = {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["tok.Tok", "tok.Tok"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    change(folder / "config.json", auto_map={"AutoConfig": "tok.Tok", "AutoModelForCausalLM": "tok.Tok"})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert "has a tokenizer that can't be read" in said(models.load, folder)
    models.load(folder, tokenizer=False)
    assert not canary.exists()


@pytest.mark.parametrize("step", [-1, 1, -8, 8])
def test_a_header_of_another_length_is_refused(folder, step):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    path.write_bytes(struct.pack("<Q", length + step) + content[8:])
    said(read_safetensors, path)


def test_bytes_that_no_tensor_holds_are_refused(tmp_path):
    path, entry = tmp_path / "a.safetensors", {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}

    def write(entries, count):
        header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(count))
        return path

    assert read_safetensors(write({"x": entry}, 4))["x"].shape == (4,)
    assert "2 bytes behind its last tensor" in said(read_safetensors, write({"x": entry}, 6))
    hole = {"x": entry, "y": entry | {"data_offsets": [6, 10]}}
    assert "'y' leaves 2 bytes before it" in said(read_safetensors, write(hole, 10))
    assert "'x' leaves 4 bytes" in said(read_safetensors, write({"x": entry | {"data_offsets": [4, 8]}}, 8))
    twice = b'{"x": %b, "x": %b}' % ((json.dumps(entry).encode(),) * 2)
    assert "names 'x' twice" in said(read_safetensors, write(twice, 4))
    one = entry | {"shape": [True, 4], "data_offsets": [0, 4]}
    assert "no place in a file" in said(read_safetensors, write({"x": one}, 4))


NONSENSE = ({"a": 1}, True, -1, 1.5, "8", float("nan"), float("inf"), [1, None], 2**70, "x" * 2000)


def test_every_field_of_a_configuration_refuses_what_it_cannot_be():

    for name in Config.model_fields:
        if name == "ft_jax_head":
            continue
        refused = 0
        for value in NONSENSE:
            try:
                checked(Config, {name: value}, "config.json")
            except ValueError as error:
                assert f"config.json has {name}" in str(error) and "\n" not in str(error)
                refused += 1
        assert refused >= len(NONSENSE) - 3, name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", {"a": 1}),
        ("rms_norm_eps", True),
        ("rms_norm_eps", float("nan")),
        ("hidden_size", 64.0),
        ("num_hidden_layers", "2"),
        ("architectures", float("inf")),
        ("rope_theta", -1),
        ("vocab_size", 2**60),
        ("pad_token_id", [[]]),
        ("rope_parameters", {"rope_type": "linear", "factor": float("inf")}),
        ("id2label", {"0": 1}),
        ("attention_dropout", 2),
    ],
)
def test_a_field_of_config_json_is_refused_by_name_and_value(folder, field, value):
    change(folder / "config.json", **{field: value})
    told = said(models.load, folder, tokenizer=False)
    assert "config.json has" in told and field in told and "should" in told


def test_json_that_is_no_configuration_is_one_sentence(folder):
    for content in (b"[" * 100_000, b'{"hidden_size": ' + b"9" * 5000 + b"}", b"\xff", b"[]", b'{"a": 1, "a": 2}'):
        (folder / "config.json").write_bytes(content)
        assert "config.json" in said(models.load, folder, tokenizer=False)


def test_fields_that_are_not_known_here_are_let_be(folder):
    whole = models.load(folder, tokenizer=False)
    change(folder / "config.json", something={"of": ["another", float("nan")]})
    assert models.load(folder, tokenizer=False).config == whole.config


CONFIG = models.tiny_decoder(jax.random.key(0)).config


def gguf_file(path, **changes):
    writer = begun(path, "llama", CONFIG)
    for name, (add, value) in changes.items():
        getattr(writer, add)(name.replace("__", "."), value)
    writer.add_tensor("a", np.ones((4, 32), np.float32))
    writer.add_tensor("b", np.ones((4, 32), np.float32))
    finished(writer)
    return path


@pytest.mark.parametrize(
    ("field", "add", "value", "told"),
    [
        (
            "llama__rope__scaling__factor",
            "add_float32",
            -1.0,
            "rope.scaling.factor -1.0, which should be",
        ),
        ("llama__rope__scaling__factor", "add_float32", float("nan"), "rope.scaling.factor nan"),
        (
            "llama__attention__key_length",
            "add_string",
            "8",
            "attention.key_length '8', which should be",
        ),
        ("tokenizer__ggml__eos_token_id", "add_int32", -4, "eos_token_id -4"),
        ("tokenizer__ggml__tokens", "add_string", "abc", "tokens 'abc', which should be a valid list"),
    ],
)
def test_a_field_of_a_gguf_file_is_refused_by_name_and_value(tmp_path, field, add, value, told):
    path = gguf_file(tmp_path / "a.gguf", **{field: (add, value)})
    assert told in said(models.load, path, tokenizer=False)


def test_a_gguf_token_that_does_not_exist_is_refused(tmp_path):
    changes = {"tokenizer__ggml__tokens": ("add_array", ["a"]), "tokenizer__ggml__eos_token_id": ("add_uint32", 1)}
    told = said(models.load, gguf_file(tmp_path / "a.gguf", **changes), tokenizer=False)
    assert "eos_token_id 1 and 1 tokens" in told


def test_lists_in_lists_and_shared_bytes_in_gguf_are_refused(tmp_path):
    path = tmp_path / "deep.gguf"
    field = struct.pack("<Q", 1) + b"x" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + field + bytes(64))
    assert "lists in lists" in said(read_gguf, path)
    content = bytearray(gguf_file(tmp_path / "a.gguf").read_bytes())
    place = content.index(b"\x01\0\0\0\0\0\0\0b") + 9 + 4 + 16 + 4
    assert struct.unpack_from("<Q", content, place)[0] == 512
    struct.pack_into("<Q", content, place, 0)
    path.write_bytes(content)
    assert "'a' and 'b' share bytes" in said(read_gguf, path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora_alpha", float("nan")),
        ("lora_alpha", True),
        ("r", 2.5),
        ("r", -4),
        ("peft_type", [1]),
        ("rank_pattern", {"q": "x"}),
        ("alpha_pattern", [1]),
        ("lora_dropout", 7),
        ("use_rslora", 1),
        ("target_modules", {"q": 1}),
        ("init_lora_weights", 3),
    ],
)
def test_a_field_of_an_adapter_is_refused_by_name_and_value(tmp_path, field, value):
    copy = Path(shutil.copytree(GOLDEN / "peft" / "lora_patterns", tmp_path / "adapter"))
    change(copy / "adapter_config.json", **{field: value})
    told = said(load_adapter, copy, models.tiny_decoder(jax.random.key(0)))
    assert "adapter_config.json has" in told and field in told
