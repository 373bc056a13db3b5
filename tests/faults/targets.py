"""Every loader and parser of what comes from outside, each with good files to begin with."""

import dataclasses
import functools
import gzip
import io
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pyarrow
import pyarrow.parquet
from assets.package_index import tar_bytes, zip_bytes
from models.gguf_writing import begun, finished
from tokenizers import Tokenizer
from tokenizers import models as kinds

from ft_jax import models
from ft_jax.assets import addresses, index
from ft_jax.assets.archives import open_archive, unpack
from ft_jax.assets.cache import read_record
from ft_jax.core import make_step, supervised
from ft_jax.core.step import parameters
from ft_jax.data.files import from_file
from ft_jax.models.checkpoints.gguf_file import read_gguf
from ft_jax.models.checkpoints.safetensors_file import read_folder, read_safetensors
from ft_jax.models.checkpoints.tokenizers import tokenizer_of_folder
from ft_jax.models.peft.files import load_adapter
from ft_jax.training.parallel import as_parallelism
from ft_jax.training.report.data import read_run
from ft_jax.training.run_folder import read_sealed, write_sealed
from ft_jax.transfer import lora

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader of one kind of file.

    Attributes:
      name: of the target.
      seed: ``folder ->`` the path to harm, in a folder that is otherwise good.
      read: ``path ->`` something comparable.
      json: whether values are harmed too, not bytes alone.
      sure: whether the format has checksums, so that what is read must be what was there.
    """

    name: str
    seed: Callable[[Path], Path]
    read: Callable[[Path], Any]
    json: bool = False
    sure: bool = False


def file_of(name: str, content: Callable[[], bytes]):
    content = functools.cache(content)

    def seed(folder):
        (folder / name).write_bytes(content())
        return folder / name

    return seed


def copied(source: Path, name: str):
    def seed(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return folder / name

    return seed


def _rows(path):
    return {name: [np.asarray(value).tolist() for value in column] for name, column in from_file(path).columns.items()}


def _tensors(path):
    return {name: np.asarray(stored.load()).tobytes() for name, stored in read_safetensors(path).items()}


def _gguf(path):
    file = read_gguf(path)
    return file.metadata, {name: np.asarray(stored.load()).tobytes() for name, stored in file.tensors.items()}


def _outline(path):
    folder = path if path.suffix == ".gguf" else path.parent
    return str(models.load(folder, tokenizer=False, abstract=True, strict=False, key=jax.random.key(0)).config)


def _unpacked(path):
    target = path.parent / "unpacked"
    with open_archive(path, str(path), 1 << 22) as archive:
        return {name: (target / name).read_bytes() for name in unpack(archive, "", target)}


@functools.cache
def base():
    return models.tiny_decoder(jax.random.key(0))


def _packed(make):
    return make({"d/a.txt": b"some text\n" * 40, "d/b.bin": bytes(range(256)) * 4})


def _deflated(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(40.0).reshape(10, 4), labels=np.arange(10))
    return buffer.getvalue()


def _parquet():
    table = pyarrow.table({"text": [f"t {i % 3}" for i in range(50)], "x": list(range(50)), "y": [[1.5, 2.0]] * 50})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _safetensors():
    header, place = {}, 0
    for name, kind, shape, size in (("a", "F32", [2, 4], 32), ("b", "BF16", [3], 6), ("c", "U8", [5], 5)):
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(place))


def _gguf_seed(folder):
    path = folder / "a.gguf"
    config = base().config
    writer = begun(path, "llama", config)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_uint32("tokenizer.ggml.eos_token_id", 1)
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    finished(writer)
    return path


def _index_seed(folder):
    (folder / "a.safetensors").write_bytes(_safetensors())
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys("abc", "a.safetensors")}))
    return path


@functools.cache
def _adapter() -> dict[str, bytes]:
    method = lora(rank=2, targets="attention")
    state = make_step(supervised(base().apply), optax.sgd(0.1), method).init(base().params, jax.random.key(0))
    with tempfile.TemporaryDirectory() as parent:
        folder = models.save_adapter(base(), parameters(state, method)["model"], Path(parent) / "adapter")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _adapter_seed(folder):
    for name, content in _adapter().items():
        (folder / name).write_bytes(content)
    return folder / "adapter_config.json"


def tokenizer_seed(folder):
    Tokenizer(kinds.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, "[UNK]")).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def _run_seed(name):
    def seed(folder):
        write_sealed(folder / "experiment.json", {"name": "points", "seed": 0, "command": ["ft-jax"], "versions": {}})
        write_sealed(folder / "summary.json", {"status": "finished", "scores": {"after": {"test": {"loss": 0.5}}}})
        told = [{"kind": "train", "step": step, "loss": 1.0 / step} for step in range(1, 6)]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told))
        return folder / name

    return seed


def _sealed(path):
    (path.parent / f".{path.name}").unlink(missing_ok=True)
    return read_sealed(path)


def _page(path):
    return [index._json_link("https://host/simple/a/", file) for file in index._Page.read(path.read_bytes()).files]


def _address(path):
    text = path.read_bytes().decode("utf-8", "replace")
    read = addresses.parse_hub if text.startswith("hf") else addresses.parse_package
    return read(text)


ADDRESS = "pkg://part-a==1.0/d/w.gguf.part0+part-b==1.0/d/w.gguf.part1"
PAGE = {"files": [{"url": "../a-1.0.zip", "filename": "a-1.0.zip", "hashes": {"sha256": "0" * 64}, "size": 9}]}
ROWS = [{"text": f"row {i}", "x": i, "labels": i % 2} for i in range(12)]
CONFIGURATIONS = sorted(path.parent.name for path in GOLDEN.glob("tiny_*/config.json"))

FOREIGN = (
    Target("safetensors", file_of("a.safetensors", _safetensors), _tensors),
    Target("gguf", _gguf_seed, _gguf),
    Target("gguf model", _gguf_seed, _outline),
    *(Target(f"config {name}", copied(GOLDEN / name, "config.json"), _outline, json=True) for name in CONFIGURATIONS),
    Target("generation_config", copied(GOLDEN / "tiny_llama", "generation_config.json"), _outline, json=True),
    Target(
        "adapter_config",
        _adapter_seed,
        lambda path: load_adapter(path.parent, base())[0].name,
        json=True,
    ),
    Target("shards' index", _index_seed, lambda path: sorted(read_folder(path.parent)), json=True),
    Target("tokenizer.json", tokenizer_seed, lambda path: len(tokenizer_of_folder(path.parent)), json=True),
    Target("zip", file_of("a.zip", lambda: _packed(_deflated)), _unpacked, sure=True),
    Target("stored zip", file_of("a.zip", lambda: _packed(zip_bytes)), _unpacked, sure=True),
    Target("tar.gz", file_of("a.tar.gz", lambda: _packed(tar_bytes)), _unpacked, sure=True),
    Target("tar", file_of("a.tar", lambda: gzip.decompress(_packed(tar_bytes))), _unpacked),
    Target("jsonl", file_of("a.jsonl", lambda: "\n".join(map(json.dumps, ROWS)).encode()), _rows),
    Target("json", file_of("a.json", lambda: json.dumps(ROWS).encode()), _rows, json=True),
    Target("csv", file_of("a.csv", lambda: b"text,x,labels\n" + b'"some, text",3,yes\nmore,4,no\n' * 8), _rows),
    Target("tsv", file_of("a.tsv", lambda: b"text\tx\n" + b"some\t3\nmore\t4\n" * 8), _rows),
    Target("csv.gz", file_of("a.csv.gz", lambda: gzip.compress(b"text,x\n" + b"hello,1\n" * 40, mtime=0)), _rows),
    Target("npz", file_of("a.npz", _npz), _rows, sure=True),
    Target("parquet", file_of("a.parquet", _parquet), _rows),
    Target("experiment.json", _run_seed("experiment.json"), _sealed, json=True, sure=True),
    Target("summary.json", _run_seed("summary.json"), _sealed, json=True, sure=True),
    Target("a run's metrics", _run_seed("metrics.jsonl"), lambda path: len(read_run(path.parent).train)),
    Target("cache record", file_of("record.json", lambda: b'{"archives": {}, "members": {"a": {"a/b": 3}}}'),
           lambda path: read_record(path.parent), json=True),
    Target("index page", file_of("page.json", lambda: json.dumps(PAGE).encode()), _page, json=True),
    Target("address", file_of("address", lambda: ADDRESS.encode()), _address),
    Target("hub address", file_of("address", lambda: b"hf://org/model@v2/config.json"), _address),
    Target("mesh", file_of("mesh", lambda: b"mesh(2,2,2)"),
           lambda path: as_parallelism(path.read_bytes().decode("utf-8", "replace"))),
)  # fmt: skip
"""By kind; checkpoints have targets of their own, see `test_every_flipped_bit_of_a_checkpoint_is_noticed`."""
