"""Reading GGUF, llama.cpp's one-file format: metadata, and tensors dequantised when asked for."""

import dataclasses
import functools
import itertools
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.models.architectures.naming import FREQUENCIES
from ft_jax.models.checkpoints.stored import Stored
from ft_jax.outside import printable, trouble_with

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAGIC = b"GGUF"
DEEPEST = 2


@dataclasses.dataclass(frozen=True)
class GGUF:
    """A GGUF file.

    Attributes:
      metadata: key to value; strings, numbers, lists; and the numbers of the tensor `FREQUENCIES`, if there is one.
      tensors: by name, shapes outermost dimension first.
    """

    metadata: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(path: Path) -> GGUF:
    """The metadata of a file and its tensors, each dequantised to float32 when loaded.

    Raises:
      ValueError: where the file is no GGUF, is truncated, claims more than it holds, or has an unknown type.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a GGUF file")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} does not start with 'GGUF'; it is no GGUF file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(path, data, 4)
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise ValueError(f"{path} is GGUF version {version}; versions 2 and 3 are known")
    tensor_count, field_count = cursor.count("Q"), cursor.count("Q")
    metadata = {}
    for _ in range(field_count):
        name = cursor.string()
        if name in metadata:
            raise ValueError(f"{path} has the field {printable(name)} twice; it is corrupt")
        metadata[name] = cursor.value(cursor.scalar("I"))
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise ValueError(f"{path} has general.alignment {printable(alignment)}; it must be a positive number")
    start = -(-cursor.place // alignment) * alignment
    tensors = {name: _stored(path, data, start, name, *entry) for name, *entry in entries}
    if len(tensors) < len(entries):
        raise ValueError(f"{path} has a tensor twice; it is corrupt")
    _refuse_overlaps(path, entries)
    if FREQUENCIES in tensors:
        metadata[FREQUENCIES] = tensors[FREQUENCIES].load().tolist()
    return GGUF(metadata, tensors)


class _Cursor:
    """Reads one value after another, and never past the end."""

    def __init__(self, path, data, place):
        self.path, self.data, self.place = path, data, place

    def need(self, size):
        if size > len(self.data) - self.place:
            raise ValueError(
                f"{self.path} claims {size} bytes at {self.place} of a file of {len(self.data)}; "
                "it is truncated or corrupt"
            )

    def scalar(self, code):
        size = struct.calcsize("<" + code)
        self.need(size)
        (number,) = struct.unpack_from("<" + code, self.data, self.place)
        self.place += size
        return number

    def count(self, code):
        number = self.scalar(code)
        self.need(number)
        return number

    def string(self):
        size = self.count("Q")
        raw = self.data[self.place : self.place + size]
        self.place += size
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(
                f"{self.path} has a name at byte {self.place - size} that is no UTF-8; it is corrupt"
            ) from None

    def value(self, kind, depth=0):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, length = self.scalar("I"), self.count("Q")
            if inner in SCALARS:
                dtype = np.dtype("<" + SCALARS[inner])
                self.need(length * dtype.itemsize)
                numbers = np.frombuffer(self.data, dtype, length, self.place)
                self.place += length * dtype.itemsize
                return numbers.tolist()
            if depth == DEEPEST:
                raise ValueError(f"{self.path} has lists in lists in lists; it is corrupt")
            return [self.value(inner, depth + 1) for _ in range(length)]
        if kind not in SCALARS:
            raise ValueError(f"{self.path} has a metadata value of unknown type {kind}; it is corrupt or too new")
        return self.scalar(SCALARS[kind])


def _entry(cursor):
    name, dimensions = cursor.string(), cursor.scalar("I")
    wrong = trouble_with(name)
    if wrong:
        raise ValueError(f"{cursor.path} has the tensor {printable(name)}, whose name {wrong}; get it again")
    if dimensions > 8:
        raise ValueError(f"{cursor.path}: tensor {printable(name)} claims {dimensions} dimensions; the file is corrupt")
    shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


def _refuse_overlaps(path, entries):
    spans = sorted((offset, offset + _size(shape, kind), name) for name, shape, kind, offset in entries)
    for (_, end, name), (begin, _, after) in itertools.pairwise(spans):
        if begin < end:
            raise ValueError(
                f"{path}: tensors {printable(name)} and {printable(after)} share bytes; the file is corrupt"
            )


def _size(shape, kind):
    import gguf

    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return math.prod(shape) // block * block_bytes


def _stored(path, data, start, name, shape, kind, offset):
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise ValueError(
            f"{path}: tensor {printable(name)} has unknown type {kind}; install a newer gguf package"
        ) from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise ValueError(
            f"{path}: tensor {printable(name)} of shape {shape} can't be in blocks of {block} ({kind.name})"
        )
    row_bytes = shape[-1] // block * block_bytes
    size = math.prod(shape[:-1]) * row_bytes
    if start + offset + size > len(data):
        raise ValueError(
            f"{path}: tensor {printable(name)} ends at byte {start + offset + size} of a file of {len(data)}; it is "
            "truncated"
        )

    if not _dequantisable(kind):
        raise ValueError(
            f"{path}: tensor {printable(name)} has type {kind.name}, which can't be dequantised here; "
            "use a file with Q4_0, Q4_1, Q5, Q8, K-quants or F16"
        )
    row_size = math.prod(shape[1:-1]) * row_bytes

    def blocks(begin=0, end=shape[0]):
        # Mapped for each call, so that pages read once don't stay in memory.
        raw = np.memmap(path, np.uint8, "r", start + offset + begin * row_size, ((end - begin) * row_size,))
        return np.frombuffer(raw, np.uint8).reshape(end - begin, *shape[1:-1], row_bytes)

    def slab(begin, end):
        numbers = gguf.quants.dequantize(blocks(begin, end), kind)
        return numbers.astype(np.float32, copy=False).reshape(end - begin, *shape[1:])

    one_dimensional = len(shape) == 1

    def load():
        if one_dimensional:
            raw = np.frombuffer(np.memmap(path, np.uint8, "r", start + offset, (size,)), np.uint8)
            return gguf.quants.dequantize(raw.reshape(1, -1), kind).astype(np.float32, copy=False).reshape(shape)
        return slab(0, shape[0])

    plain = block == 1
    return Stored(
        shape,
        load,
        slab=None if one_dimensional else slab,
        kind="" if plain else kind.name,
        raw=None if plain or one_dimensional else blocks,
    )


@functools.lru_cache(maxsize=64)
def _dequantisable(kind) -> bool:
    import gguf

    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
