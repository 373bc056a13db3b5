"""Reading safetensors: the header is checked against the file before anything is allocated."""

import json
import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from ft_jax.models.stored import Stored

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

LONGEST_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file, mapped into memory and read when asked for.

    Raises:
      ValueError: where the file is truncated, corrupt, or claims more bytes than it has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError(f"{path} is not a whole safetensors file: {size} bytes, header said to take {length}")
        try:
            header = json.loads(file.read(length))
            entries = {name: _entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} has a safetensors header that can't be read ({error}); download it again"
            ) from None
    base = 8 + length
    return {
        name: Stored(shape, _loader(path, name, type_, shape, base + begin, base + end, size))
        for name, (type_, shape, begin, end) in entries.items()
    }


def read_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of ``model.safetensors``, or of every shard its index names.

    Raises:
      FileNotFoundError: where there is none, or a shard is missing.
      ValueError: where a file is corrupt.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
        if outside:
            raise ValueError(f"{index} names {outside[0]!r}, which is not a file of its own folder")
    else:
        shards = [path.name for path in sorted(folder.glob("*.safetensors"))]
        shards = ["model.safetensors"] if "model.safetensors" in shards else shards
    if not shards:
        raise FileNotFoundError(
            f"{folder} has no *.safetensors file; pickled checkpoints (*.bin, *.pt) are never read, convert them first"
        )
    tensors: dict[str, Stored] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder} has no {shard!r}, which {index.name} names; download it again")
        tensors |= read_safetensors(folder / shard)
    return tensors


def _entry(path, name, entry):
    type_, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if type_ not in TYPES:
        raise ValueError(f"{path}: tensor {name!r} has type {type_!r}; known are {', '.join(TYPES)}")
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{path}: tensor {name!r} has shape {shape} at {begin}:{end}, which is no place in a file")
    return type_, shape, begin, end


def _loader(path, name, type_, shape, begin, end, size):
    dtype = np.dtype(TYPES[type_])
    if end > size:
        raise ValueError(f"{path}: tensor {name!r} ends at byte {end} of a file of {size}; the file is truncated")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: tensor {name!r} of shape {shape} and type {type_} is given {end - begin} bytes")

    def load():
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset=begin, shape=(end - begin,))
        return np.frombuffer(raw, dtype).reshape(shape)

    return load
