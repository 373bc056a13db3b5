"""Safetensors files: the header is checked against the file before anything is allocated, tensors go one by one."""

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ft_jax.models.checkpoints.stored import Stored
from ft_jax.outside import Refused, one_line, parse_json, printable, read_json, trouble_with

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

NAMES = {np.dtype(type_): name for name, type_ in TYPES.items()}

LONGEST_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one file, mapped into memory and read when asked for.

    Raises:
      ValueError: where the file is truncated, corrupt, or its tensors don't fill it from the header's end to its own.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise ValueError(f"{path} is not a whole safetensors file: {size} bytes, header said to take {length}")
        try:
            header = parse_json(file.read(length), "its header")
            header.pop("__metadata__", None)
            entries = {name: _entry(path, name, entry) for name, entry in header.items()}
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            if isinstance(error, Refused):
                raise
            raise ValueError(
                f"{path} has a safetensors header that can't be read ({one_line(error)}); download it again"
            ) from None
    base = 8 + length
    _refuse_gaps(path, entries, base, size)
    return {
        name: _stored(path, name, type_, shape, base + begin, base + end, size)
        for name, (type_, shape, begin, end) in entries.items()
    }


def read_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of ``model.safetensors``, or of every shard its index names.

    Raises:
      FileNotFoundError: where there is none, or a shard is missing.
      ValueError: where a file is corrupt, or the index and the shards speak of different tensors.
    """
    index = folder / "model.safetensors.index.json"
    places = _index(index) if index.is_file() else None
    if places is not None:
        shards = sorted(set(places.values()))
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
            raise FileNotFoundError(f"{folder} has no {printable(shard)}, which {index.name} names; download it again")
        found = read_safetensors(folder / shard)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(f"{folder / shard} holds tensor {printable(twice[0])}, which another shard holds too")
        tensors |= found
    absent = sorted(set(places or ()) - set(tensors))
    if absent:
        raise ValueError(
            f"{index} names tensor {printable(absent[0])}, which no shard holds; download the folder again"
        )
    return tensors


def _index(path):
    try:
        places = read_json(path)["weight_map"]
        outside = [name for name in places.values() if not _of_a_folder(name)]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} can't be read ({one_line(error)}); download it again") from None
    if outside:
        raise ValueError(f"{path} names {printable(outside[0])}, which is not a file of its own folder")
    return places


def _of_a_folder(name):
    """Whether it is the name of a file in a folder."""
    return isinstance(name, str) and name and Path(name).name == name and trouble_with(name) is None


def _entry(path, name, entry):
    wrong = trouble_with(name)
    if wrong:
        raise Refused(f"{path} has the tensor {printable(name)}, whose name {wrong}; get it again")
    type_, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if type_ not in TYPES:
        raise Refused(f"{path}: tensor {printable(name)} has type {printable(type_)}; known are {', '.join(TYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise Refused(
            f"{path}: tensor {printable(name)} has shape {shape} at {begin}:{end}, which is no place in a file"
        )
    return type_, shape, begin, end


def _refuse_gaps(path, entries, base, size):
    """Tensors lie one after another from the header's end to the file's; with any byte between, lengths are wrong."""
    place, before = 0, None
    for begin, end, name in sorted((begin, end, name) for name, (_, _, begin, end) in entries.items()):
        if base + end > size:
            raise ValueError(
                f"{path}: tensor {printable(name)} ends at byte {base + end} of a file of {size}; the file is truncated"
            )
        if begin < place:
            raise ValueError(
                f"{path}: tensors {printable(before)} and {printable(name)} share bytes; the file is corrupt"
            )
        if begin > place:
            raise ValueError(
                f"{path}: tensor {printable(name)} leaves {begin - place} bytes before it; the file is corrupt, get it "
                "again"
            )
        place, before = max(place, end), name
    if base + place != size:
        raise ValueError(
            f"{path} has {size - base - place} bytes behind its last tensor; it is corrupt, download it again"
        )


def _stored(path, name, type_, shape, begin, end, size):
    dtype = np.dtype(TYPES[type_])
    if end > size:
        raise ValueError(
            f"{path}: tensor {printable(name)} ends at byte {end} of a file of {size}; the file is truncated"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path}: tensor {printable(name)} of shape {shape} and type {type_} is given {end - begin} bytes"
        )
    row = math.prod(shape[1:]) * dtype.itemsize

    def mapped(first, shape):
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset=first, shape=(math.prod(shape) * dtype.itemsize,))
        return np.frombuffer(raw, dtype).reshape(shape)

    return Stored(
        shape,
        load=lambda: mapped(begin, shape),
        dtype=dtype,
        slab=(lambda first, last: mapped(begin + first * row, (last - first, *shape[1:]))) if shape else None,
    )


def shards_of(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Tensor names in their order, in as few files as hold at most `most` bytes each; a larger tensor is alone.

    Example:
      >>> shards_of({"a": 3, "b": 3, "c": 9, "d": 1}, 6)
      [['a', 'b'], ['c'], ['d']]
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_safetensors(
    path: Path,
    outlines: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterable[tuple[str, Callable[[], np.ndarray]]],
) -> None:
    """Writes one file, of which no more than one tensor is in memory at a time.

    Args:
      path: where to.
      outlines: shape and type of each tensor, in the file's order.
      tensors: name and maker of each, in that order.

    Raises:
      ValueError: where a tensor isn't what its outline said, or has a type the format lacks.
    """
    header: dict = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (shape, dtype) in outlines.items():
        if np.dtype(dtype) not in NAMES:
            raise ValueError(
                f"tensor {printable(name)} has type {dtype}, which safetensors can't hold; cast it to a known type"
            )
        size = math.prod(shape) * np.dtype(dtype).itemsize
        entry = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [place, place + size]}
        header[name], place = entry, place + size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, make), (expected, (shape, dtype)) in zip(tensors, outlines.items(), strict=True):
            array = np.asarray(make(), order="C")
            if (name, array.shape, array.dtype) != (expected, tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"tensor {printable(name)} is {array.dtype}{array.shape} and was announced as {dtype}{shape}"
                )
            file.write(array.reshape(-1).view(np.uint8))
