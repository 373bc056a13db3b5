"""A teacher's likeliest classes for every token of a data set, in a folder of shards.

``header.json`` says of whom and of what: digests of the teacher, its tokenizer and the rows of tokens, how many classes
a token has, how many rows a shard. Shard ``n`` is ``n.ids.npy`` ``[tokens, top]``, ``n.values.npy``
``[tokens, top + 1]`` (log-probabilities, the last of all other classes together) and, written last, ``n.json`` with the
digests of both. Only tokens that carry loss are held.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.assets.cache import replacing, sha256_of
from ft_jax.data.dataset import Computed, Dataset
from ft_jax.outside import Refused, checked, fields, printable, read_json, refusing
from ft_jax.outside.schema import Size, Word

IDS, VALUES = "teacher_ids", "teacher_log_probabilities"
FORMAT = 1
TYPES = ("float16", "float32")
HEADER = "header.json"
FIELDS = {"data": "data set, length or packing", "rows": "number of rows"}
"""What fields of the header are called where their own names would say little."""
PARTS = ("ids", "values")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a folder holds.

    Attributes:
      teacher, tokenizer, data: digests of the teacher's parameters, of its tokenizer and of the rows of tokens.
      address: where the teacher came from, for sentences.
      classes: of the teacher.
      top: classes a token.
      dtype: of the log-probabilities.
      rows, rows_per_shard: examples, in the data's order.
    """

    teacher: str
    tokenizer: str
    data: str
    address: str
    classes: int
    top: int
    dtype: str
    rows: int
    rows_per_shard: int

    @property
    def shards(self) -> int:
        """How many there are when all is written."""
        return -(-self.rows // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * self.rows_per_shard, min((shard + 1) * self.rows_per_shard, self.rows))


SCHEMA = fields(
    "Header", {Size: "format classes top rows rows_per_shard", Word: "teacher tokenizer data address dtype"}
)
SHARD = fields("Shard", {Word: "ids values"})


def digest_of_rows(rows: Dataset) -> str:
    """A digest of rows of tokens: ids, labels, weights and segments, in order. Other text, another tokenizer, another
    length or another packing give another one.

    Example:
      >>> one, other = (Dataset({"input_ids": [np.array([1, 2])], "labels": [np.array([2, x])]}) for x in (3, 4))
      >>> digest_of_rows(one) == digest_of_rows(one), digest_of_rows(one) == digest_of_rows(other)
      (True, False)
    """
    found = hashlib.sha256()
    for row in rows:
        for field in ("input_ids", "labels", "weights", "segment_ids"):
            if field in row:
                value = np.asarray(row[field])
                value = value.astype("<f8" if value.dtype.kind == "f" else "<i8")
                found.update(f"{field} {value.shape} ".encode() + value.tobytes())
    return found.hexdigest()


def digest_of_tokenizer(tokenizer: Any) -> str:
    """A digest of a tokenizer's tokens with their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def counted(row: Mapping[str, Any]) -> np.ndarray:
    """Which of a row's tokens carry loss, ``[time]``."""
    found = np.asarray(row["labels"]) >= 0
    return found & (np.asarray(row["weights"]) > 0) if "weights" in row else found


def begin(folder: Path, header: Header) -> list[int]:
    """Makes a folder, or takes one up: the shards that are still to be written.

    Raises:
      ValueError: the folder holds something else, and nothing is changed.
    """
    if folder.exists() and not (folder / HEADER).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files; give a new folder, or an empty one")
    if (folder / HEADER).is_file():
        held, asked = (dataclasses.asdict(one) for one in (read_header(folder), header))
        for field in asked:
            if held[field] != asked[field]:
                raise ValueError(
                    f"{folder} is a cache of another {FIELDS.get(field, field)} ({printable(held[field], 20)}, not "
                    f"{printable(asked[field], 20)}); give another folder"
                )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / HEADER, {"format": FORMAT, **dataclasses.asdict(header)})
    return [shard for shard in range(header.shards) if not (folder / f"{shard}.json").is_file()]


def write_shard(folder: Path, shard: int, ids: np.ndarray, values: np.ndarray) -> None:
    """Writes one shard; it counts from its last file on, so one that was cut off is written again."""
    record = {}
    for name, array in zip(PARTS, (ids, values), strict=True):
        path = folder / f"{shard}.{name}.npy"
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        record[name] = sha256_of(path)
    _write_json(folder / f"{shard}.json", record)


def read_header(folder: Path) -> Header:
    """What a folder holds.

    Raises:
      FileNotFoundError: it is no cache.
      Refused: its header can't be read, or is of a later version.
    """
    path = folder / HEADER
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {HEADER}; name a folder that ft-jax cache-teacher has written")
    content = checked(SCHEMA, read_json(path), str(path))
    missing = [name for name in SCHEMA.model_fields if content.get(name) is None]
    if missing:
        raise Refused(f"{path} has no {missing[0]}; write the cache again")
    if content.pop("format") != FORMAT:
        raise Refused(f"{path} is of another format than {FORMAT}; write the cache again with this version")
    header = Header(**content)
    if header.dtype not in TYPES or header.top > header.classes:
        raise Refused(f"{path} has dtype {printable(header.dtype)} and top {header.top}; write the cache again")
    return header


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherCache:
    """A whole cache, read as rows are asked for.

    Attributes:
      folder: where it is.
      header: what it holds.
    """

    folder: Path
    header: Header

    def beside(self, rows: Dataset) -> Dataset:
        """The rows with the teacher's classes in `IDS` and `VALUES`, 0 where a token carries no loss.

        Raises:
          ValueError: the rows are not those that the cache was written for.
        """
        if self.header.data != digest_of_rows(rows):
            raise ValueError(
                f"{self.folder} was written for other rows of tokens ({self.header.rows} of them, these are "
                f"{len(rows)}): other data, tokenizer, length or packing; write a cache for these"
            )
        masks = [counted(row) for row in rows]
        starts = [0] * len(masks)
        for shard in range(self.header.shards):
            place = 0
            for row in self.header.rows_of(shard):
                starts[row], place = place, place + int(masks[row].sum())
            self._check_size(shard, place)
        held = {name: Computed(len(rows), functools.partial(self._row, name, masks, starts)) for name in (IDS, VALUES)}
        return dataclasses.replace(rows, columns={**rows.columns, **held})

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises ValueError on another tokenizer than that whose ids are stored."""
        if digest_of_tokenizer(tokenizer) != self.header.tokenizer:
            raise ValueError(
                f"{self.folder} holds classes by the tokenizer of {printable(self.header.address)}, and the model has "
                f"another one ({len(tokenizer.get_vocab())} tokens); take a model with that teacher's tokenizer, or "
                "write a cache with a teacher that has the model's"
            )

    def _row(self, name: str, masks: list, starts: list, row: int) -> np.ndarray:
        mask, start = masks[row], starts[row]
        stored = self._shard(row // self.header.rows_per_shard)[name == VALUES]
        made = np.zeros((len(mask), stored.shape[1]), np.float32 if name == VALUES else np.int32)
        made[mask] = stored[start : start + int(mask.sum())]
        return made

    def _check_size(self, shard: int, tokens: int) -> None:
        ids, values = self._shard(shard)
        top = self.header.top
        if ids.shape != (tokens, top) or values.shape != (tokens, top + 1):
            raise Refused(
                f"shard {shard} of {self.folder} holds {ids.shape[0]} tokens of {tokens}; delete {shard}.json there "
                "and run ft-jax cache-teacher again"
            )

    @functools.cached_property
    def _arrays(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _shard(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        if shard not in self._arrays:
            remedy = f"delete {shard}.json there and run ft-jax cache-teacher again"
            with refusing(f"shard {shard} of {self.folder} can't be read", remedy):
                found = [np.load(self.folder / f"{shard}.{name}.npy", "r", allow_pickle=False) for name in PARTS]
            self._arrays[shard] = tuple(found)
        return self._arrays[shard]


def open_cache(folder: str | Path) -> TeacherCache:
    """A cache whose every shard is whole.

    Raises:
      FileNotFoundError: the folder is no cache.
      Refused: a shard is missing or damaged; which, and how to write it again.
    """
    folder = Path(folder)
    header = read_header(folder)
    for shard in range(header.shards):
        path = folder / f"{shard}.json"
        if not path.is_file():
            raise Refused(
                f"{folder} lacks shard {shard} of {header.shards}; run the same ft-jax cache-teacher again, which goes "
                "on"
            )
        record = checked(SHARD, read_json(path), str(path))
        for name in PARTS:
            file = folder / f"{shard}.{name}.npy"
            if not file.is_file() or sha256_of(file) != record.get(name):
                raise Refused(
                    f"{file} is not what was written; delete {path.name} beside it and run ft-jax cache-teacher again"
                )
    return TeacherCache(folder, header)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())
