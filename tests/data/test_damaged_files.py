"""Damaged and hostile files of data are refused in one sentence that names the file, in bounded time and memory."""

import gzip
import io
import json
import random
import time
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ft_jax.data.tables import read_table


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz_of_header(shape, kind="<f8", content=b""):
    """An npz file whose one array claims any shape."""
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    header = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", header + content)
    return buffer.getvalue()


def parquet(table, **options):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, **options)
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


TWICE = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], ["x", "x"])
LONG = pyarrow.table({"x": pyarrow.array(["y" * 1_000_000] * 200).dictionary_encode()})

BAD = {
    "a column twice in csv": ("a.csv", b"x,x\n1,2\n", "two columns called 'x'"),
    "a column twice in parquet": ("a.parquet", lambda: parquet(TWICE), "two columns called 'x'"),
    "a field twice in jsonl": ("a.jsonl", b'{"x": 1, "x": 2}\n', "line 1 is not JSON .*names 'x' twice"),
    "a field twice in json": ("a.json", b'[{"x": 1, "x": 2}]', "is not JSON .*names 'x' twice"),
    "no UTF-8 in csv": ("a.csv", b"text\ncaf\xe9\n", "not UTF-8 at byte"),
    "no UTF-8 in jsonl": ("a.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8 at byte"),
    "deep jsonl": ("a.jsonl", b'{"x": ' + b"[" * 100_000 + b"\n", "line 1 is not JSON .*nested too deeply"),
    "deep json": ("a.json", b"[" * 100_000, "is not JSON .*nested too deeply"),
    "a number of 5,000 digits": ("a.jsonl", b'{"x": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON .*digits"),
    "a column name that breaks lines": ("a.csv", b'"a\nb",c\n1,2\n', "column .* control character"),
    "a column name that turns round": ("a.jsonl", '{"\u202eabc": 1}'.encode(), "column .* direction mark"),
    "218 TiB in npz": ("a.npz", lambda: npz_of_header((30_000_000, 1_000_000)), "claims the shape"),
    "an overflowing shape": ("a.npz", lambda: npz_of_header((2**62, 4), content=b""), "claims the shape"),
    "a pickle in npz": ("a.npz", lambda: npz(x=np.array([{}], object)), "never unpickled"),
    "an npz bomb": ("a.npz", lambda: zipped(b"\0" * (130 << 20)), "unpacks to .* no more than"),
    "a gzip bomb": ("a.csv.gz", lambda: gzip.compress(b"x\n" * (80 << 20), 1), "unpacks to more than"),
    "a damaged gzip": ("a.csv.gz", lambda: gzip.compress(random.Random(0).randbytes(900))[:10] + b"\xff" * 90, "gzip"),
    "a parquet of long repeats": ("a.parquet", lambda: parquet(LONG), "unpacks to more than"),
    "the same as plain text": ("a.parquet", lambda: parquet(LONG, store_schema=False), "unpacks to more than"),
    "a parquet of many rows": (
        "a.parquet",
        lambda: parquet(pyarrow.table({"x": pyarrow.nulls(200_000_000, pyarrow.int8())})),
        "unpacks to more than",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file(tmp_path, bad):
    name, content, said = BAD[bad]
    path = tmp_path / name
    path.write_bytes(content() if callable(content) else content)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=said) as error:
        read_table(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "\u202e" not in str(error.value) and time.perf_counter() - start < 4


WHOLE = {
    "a.npz": lambda: npz(x=np.arange(40.0).reshape(10, 4), labels=np.arange(10)),
    "a.parquet": lambda: parquet(
        pyarrow.table({"text": [f"text {i % 3}" for i in range(200)], "x": list(range(200)), "y": [[1.5, 2.0]] * 200}),
        write_page_checksum=True,
    ),
    "a.csv.gz": lambda: gzip.compress(b"text,x\n" + b"hello,1\n" * 40, mtime=0),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_flipped_bit_or_cut_is_noticed_where_the_format_has_checksums(tmp_path, name):
    path, content, draw = tmp_path / name, WHOLE[name](), random.Random(0)
    path.write_bytes(content)
    want = json.dumps({n: np.asarray(c).tolist() for n, c in read_table(path).columns.items()})
    other = 0
    for turn in range(150):
        harmed = bytearray(content)
        if turn % 5:
            harmed[draw.randrange(len(harmed))] ^= 1 << draw.randrange(8)
        else:
            del harmed[draw.randrange(len(harmed)) :]
        path.write_bytes(harmed)
        start = time.perf_counter()
        try:
            got = {n: np.asarray(c).tolist() for n, c in read_table(path).columns.items()}
            other += json.dumps(got) != want
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        assert time.perf_counter() - start < 2
    assert other <= (5 if name == "a.parquet" else 0), "only parquet's own schema has no checksum"
