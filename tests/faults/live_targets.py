"""Readers of examples of several modalities, of streams that learn as they go, and of words that choose and search."""

import functools
import io
import json
import tarfile
import tempfile
import wave
from pathlib import Path

import numpy as np
from faults.own_targets import ADAPTERS, _load_adapter, adapter
from faults.targets import Target, file_of
from PIL import Image as Pillow

from ft_jax import data, transfer
from ft_jax.data.teacher_cache import IDS, VALUES, Header, begin, counted, digest_of_rows, open_cache, write_shard
from ft_jax.meta.choosing import as_controller
from ft_jax.training.choosing import described
from ft_jax.training.online.journal import Entry, Journal
from ft_jax.training.online.lines import record_of
from ft_jax.tuning.search import parse_space

PARTS = {"image": data.Image("png", size=(4, 3)), "audio": data.Audio("wav", rate=8000, samples=20)}
NAMED = {"image": data.Image(size=(4, 3)), "audio": data.Audio(rate=8000, samples=20)}

ADAPTERS |= {
    "adalora": transfer.adalora(4, rank=3, target=2, targets="attention"),
    "tokens": transfer.trainable_tokens((1, 2)),
}


@functools.cache
def png() -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Pillow.fromarray(np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@functools.cache
def wav() -> bytes:
    """A short sound."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(-20, 20, dtype="<i2").tobytes())
    return buffer.getvalue()


TOLD = {"caption": "a sunset", "place": {"at": [1.5, 2]}}


def tar(told: bytes = json.dumps(TOLD).encode()) -> bytes:
    """Two examples as webdataset writes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for key in ("000", "001"):
            members = {"png": png(), "wav": wav(), "json": told, "txt": b"some words", "cls": b"1"}
            for ending, content in members.items():
                about = tarfile.TarInfo(f"{key}.{ending}")
                about.size = len(content)
                file.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


def _collected(found):
    rows = [found.dataset[place] for place in range(len(found.dataset))]
    return [[str(reason) for reason in found.skipped], len(rows), sorted(rows[0])]


def _shards(path):
    return _collected(data.shards([path], PARTS))


def _member(path):
    (path.parent / "a.tar").write_bytes(tar(path.read_bytes()))
    return _shards(path.parent / "a.tar")


def _table_seed(name):
    def seed(folder):
        (folder / "a.png").write_bytes(png())
        (folder / "a.wav").write_bytes(wav())
        rows = [{"image": "a.png", "audio": "a.wav", "label": 1}, {"image": "a.png", "audio": None, "label": 0}]
        (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return folder / name

    return seed


def _referenced(path):
    return _collected(data.referenced(path.parent / "t.jsonl", NAMED))


LINE = {"text": "a fine film", "label": "good", "id": 7}
PICTURE = {"images": [[0.5, 1], [0.25, 0]], "labels": 1}
ENTRIES = [Entry(at, {"offset": 20 * at}, at, {"text": f"film {at}"}, at % 2, bool(at % 3)) for at in range(1, 7)]


def _journal_seed(folder):
    journal = Journal(folder / "journal")
    journal.begin(0)
    for entry in ENTRIES:
        journal.append(entry)
    journal.close()
    return folder / "journal" / "0.jsonl"


def _journal(path):
    found = list(Journal(path.parent).entries(0))
    # A line that was cut off was not learned, so fewer entries are right and others are not.
    assert found == ENTRIES[: len(found)], "the journal holds what was never written"
    return len(found)


def _followed(path):
    lines = data.follow(path, None, stop=lambda: False, end=True)
    return [_line(line.text) for line in lines if line.text.strip()]


def _line(text):
    try:
        return str(record_of(text, ("bad", "good")))
    except ValueError as error:
        # The sentence gets its subject from who calls.
        raise ValueError(f"the line {error}") from None


def _rows():
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 9, 4 + at) for at in range(5)]
    return data.Dataset({"input_ids": ids, "labels": [np.where(row > 2, row, -1) for row in ids]})


def _cache_seed(name):
    @functools.cache
    def content():
        rows, draw = _rows(), np.random.default_rng(1)
        header = Header("a" * 64, "b" * 64, digest_of_rows(rows), "hf://org/model", 9, 2, "float16", len(rows), 3)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "cache"
            for shard in begin(folder, header):
                tokens = sum(int(counted(rows[row]).sum()) for row in header.rows_of(shard))
                values = draw.normal(size=(tokens, 3)).astype(np.float16)
                write_shard(folder, shard, draw.integers(0, 9, (tokens, 2)).astype(np.int32), values)
            return {path.name: path.read_bytes() for path in folder.iterdir()}

    def seed(folder):
        for own, raw in content().items():
            (folder / own).write_bytes(raw)
        return folder / name

    return seed


def _cached(path):
    both = open_cache(path.parent).beside(_rows())
    return [[both[at][name].tolist() for name in (IDS, VALUES)] for at in range(len(both))]


def _text(path):
    return path.read_bytes().decode("utf-8", "surrogateescape")


LIVE = (
    Target("a teacher's header", _cache_seed("header.json"), _cached, json=True, sure=True),
    Target("a teacher's shard", _cache_seed("1.json"), _cached, json=True, sure=True),
    Target("a teacher's classes", _cache_seed("0.ids.npy"), _cached, sure=True),
    Target("a tar of modalities", file_of("a.tar", tar), _shards),
    Target("a tar's json", file_of("member.json", lambda: json.dumps(TOLD).encode()), _member, json=True),
    Target("a table of files", _table_seed("t.jsonl"), _referenced),
    Target("a picture of a table", _table_seed("a.png"), _referenced),
    Target("a sound of a table", _table_seed("a.wav"), _referenced),
    Target("a line of text", file_of("line", lambda: json.dumps(LINE).encode()), lambda p: _line(_text(p)), json=True),
    Target("a line of numbers", file_of("line", lambda: json.dumps(PICTURE).encode()), lambda p: _line(_text(p)),
           json=True),
    Target("a live file", file_of("a.jsonl", lambda: 3 * f"{json.dumps(LINE)}\n".encode()), _followed),
    Target("a journal", _journal_seed, _journal),
    *(Target(f"{name} adapter", adapter(name, "adapter_config.json"), _load_adapter, json=True)
      for name in ("adalora", "tokens")),
    *(Target(f"{name} tensors", adapter(name, "adapter_model.safetensors"), _load_adapter)
      for name in ("adalora", "tokens")),
    Target("candidate", file_of("words", lambda: b"transfer.lora(rank=8, alpha=2.0) optimizer.learning_rate=1e-4"),
           lambda path: str(described(_text(path).split(" "), "one"))),
    Target("controller", file_of("words", lambda: b"thompson"), lambda path: str(as_controller(_text(path)))),
    Target("search space", file_of("words", lambda: b"budget.steps=10..100 optimizer.learning_rate=1e-5..1e-3:log"),
           lambda path: str(parse_space(_text(path).split(" ")))),
)  # fmt: skip
