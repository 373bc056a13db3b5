"""Files of rows, read as they stand: which value is in which line, before anything is decided about it."""

import csv
import dataclasses
import gzip
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ft_jax.assets.archives import MOST, Archive, allowed, open_archive
from ft_jax.outside import Refused, once, one_line, printable, refusing, trouble_with


@dataclasses.dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
      path: of the file.
      columns: by name; None where a row has no value.
      rows: what a row is called in the file: ``"line"`` of a text file, ``"row"`` elsewhere.
      numbers: of each row, as a person finds it.
      written: whether values are the words of a text file, whose types are still to be decided.
    """

    path: Path
    columns: Mapping[str, Sequence]
    rows: str
    numbers: Sequence[int]
    written: bool = False

    def where(self, place: int) -> str:
        """How an error names a row.

        Example:
          >>> Table(Path("a.csv"), {"text": ["x"]}, "line", [2]).where(0)
          'a.csv line 2'
        """
        return f"{self.path} {self.rows} {self.numbers[place]}"


def read_table(path: Path, quotes: bool | None = None) -> Table:
    """The rows of a file, by its ending in any case: `READERS`, each also with ``.gz`` where it is text.

    Args:
      path: of the file.
      quotes: whether ``"`` encloses fields of a csv or tsv; None for yes in a csv and no in a tsv.

    Raises:
      ValueError: the ending is of no known format; the file is damaged, has rows of different lengths or a row that
        swallows others; it has no examples.
    """
    ending = format_of(path)
    if ending not in READERS:
        raise ValueError(
            f"{printable(path.name)} is of no known format; give a file that ends in {', '.join(READERS)} (text also "
            "with .gz)"
        )
    if quotes is not None and ending not in DELIMITERS:
        raise ValueError(f"quotes={quotes} is for csv and tsv, and {path.name} is neither; leave quotes out")
    try:
        table = _delimited(path, ending, quotes) if ending in DELIMITERS else READERS[ending](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not readable as gzip ({one_line(error)}); compress it again") from error
    for name in table.columns:
        wrong = trouble_with(name)
        if wrong:
            raise ValueError(f"{path} has a column {printable(name)}, whose name {wrong}; rename it")
    if not table.columns or not len(table.numbers):
        raise ValueError(f"{path} has no examples; give a file with at least one")
    return table


def format_of(path: Path) -> str:
    """The ending that decides how a file is read.

    Example:
      >>> format_of(Path("Reviews.CSV.gz")), format_of(Path("rows.jsonl"))
      ('.csv', '.jsonl')
    """
    name = path.name.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return inner if not name.endswith(".gz") or inner in (*DELIMITERS, ".json", ".jsonl") else ".gz"


def _open(path: Path) -> TextIO:
    """A text file, packed or not; the mark that some programs put in front of UTF-8 is no part of it."""
    if not path.name.lower().endswith(".gz"):
        return open(path, encoding="utf-8-sig", newline="")
    return io.TextIOWrapper(io.BufferedReader(_Bounded(path)), encoding="utf-8-sig", newline="")


class _Bounded(io.RawIOBase):
    """What a gzip file unpacks to, up to the bytes that are allowed for its size."""

    def __init__(self, path: Path):
        self._path, self._left = path, allowed(path.stat().st_size)
        self._file = gzip.open(path, "rb")  # noqa: SIM115, closed by close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise _too_large(self._path)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _too_large(path: Path) -> Refused:
    most = allowed(path.stat().st_size)
    return Refused(
        f"{path} unpacks to more than {most} bytes, which is as much as is read of a file of its size; where you trust "
        f"it, set {MOST} to a larger number"
    )


def _jsonl(path: Path) -> Table:
    records, numbers = [], []
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line, object_pairs_hook=once)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path} line {number} is not JSON ({_why(error)}); correct or drop it") from error
                if not isinstance(record, dict):
                    raise ValueError(f"{path} line {number} is a {type(record).__name__}; write an object of fields")
                records.append(record)
                numbers.append(number)
    return Table(path, columns_of_records(records), "line", numbers)


def _json(path: Path) -> Table:
    with _open(path) as file:
        try:
            content = json.load(file, object_pairs_hook=once)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            line = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise ValueError(f"{path} is not JSON ({_why(error)}{line}); correct it") from error
    lists = (
        {name: value for name, value in content.items() if isinstance(value, list)} if isinstance(content, dict) else {}
    )
    if len(lists) == 1 and all(isinstance(one, dict) for one in next(iter(lists.values()))):
        content = next(iter(lists.values()))
    elif lists and len(lists) == len(content) and len(set(map(len, lists.values()))) == 1:
        return Table(path, lists, "row", range(1, 1 + len(next(iter(lists.values())))))
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ValueError(
            f"{path} is no list of objects; write [{{...}}, ...], or an object of one such list, or of even lists"
        )
    return Table(path, columns_of_records(content), "row", range(1, 1 + len(content)))


def columns_of_records(records: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Every field that any record has as a column, None where a record lacks it.

    Example:
      >>> columns_of_records([{"text": "a"}, {"text": "b", "topic": 3}])
      {'text': ['a', 'b'], 'topic': [None, 3]}
    """
    fields = dict.fromkeys(field for record in records for field in record)
    return {field: [record.get(field) for record in records] for field in fields}


DELIMITERS = {".csv": ",", ".tsv": "\t"}


def _delimited(path: Path, ending: str, quotes: bool | None) -> Table:
    quoted = ending == ".csv" if quotes is None else quotes
    with _open(path) as file:
        # Lines end as files end them; other separators of Unicode are characters of a text.
        lines = list(io.StringIO(file.read(), newline=""))
    records = list(_records(path, lines, DELIMITERS[ending], quoted))
    if not records:
        return Table(path, {}, "line", [])
    (_, header), *rows = records
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{path} has two columns called {printable(repeated)}; rename one")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path} line {number} has {len(row)} fields and the header has {len(header)}, so it is not readable "
                f"as {ending[1:]}; correct the line, or enclose fields that hold the separator in quotes"
            )
    numbers = [number for number, _ in rows]
    if quoted and rows:
        _refuse_swallowed(path, lines, numbers, [row for _, row in rows], DELIMITERS[ending])
    columns = {name: [row[place] for _, row in rows] for place, name in enumerate(header)}
    return Table(path, columns, "line", numbers, written=True)


def _records(path: Path, lines: Sequence[str], delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of each record that isn't empty."""
    if not quoted:
        for number, line in enumerate(lines, 1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split(delimiter)
        return
    limit = csv.field_size_limit()
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begin = 1
    try:
        for fields in reader:
            if fields:
                yield begin, fields
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f'{path} line {begin} has a quote that does not close as csv has it ({error}); write "" for a quote inside '
            "a quoted field, or read it with quotes=False"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _refuse_swallowed(
    path: Path, lines: Sequence[str], numbers: Sequence[int], rows: Sequence[list[str]], delimiter: str
):
    """A quote that nobody closed goes on to the next one and takes whole rows along: refuse what looks like that.

    A field may hold line breaks. But where each of its lines has as many fields as a row, and more than half of them
    a number or a known value where the column has such, the lines were rows.
    """
    ends = [*numbers[1:], len(lines) + 1]
    spans = [range(begin - 1, end - 1) for begin, end in zip(numbers, ends, strict=True)]
    several = [place for place, row in enumerate(rows) if any("\n" in field or "\r" in field for field in row)]
    if not several or len(rows[0]) == 1:
        return
    split = {
        place: [fields for at in spans[place] if any(fields := lines[at].rstrip("\r\n").split(delimiter))]
        for place in several
    }
    width, single = len(rows[0]), [row for place, row in enumerate(rows) if place not in split]
    for place, pieces in split.items():
        if len(pieces) < 2 or any(len(piece) != width for piece in pieces):
            continue
        others = [*single, *(piece for there, several in split.items() if there != place for piece in several)]
        alike = [_like_a_row(piece, [*others, *(one for one in pieces if one is not piece)]) for piece in pieces]
        if 2 * sum(alike) > len(pieces):
            raise ValueError(
                f'{path} line {numbers[place]} opens a quote that swallows {len(pieces) - 1} more rows; write "" for a '
                "quote inside a quoted field, or read it with quotes=False"
            )


def _like_a_row(fields: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    for place, field in enumerate(fields):
        column = [row[place] for row in others if place < len(row)]
        if field and column and (field in column or (_number(field) and all(map(_number, column)))):
            return True
    return False


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


BATCH = 1024
"""Rows of a parquet file that are read at a time, for a few bytes of it can stand for gigabytes."""


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reading {path} needs pyarrow, which is not installed; pip install 'ft_jax[parquet]'"
        ) from error

    most = allowed(path.stat().st_size)
    with (
        refusing(f"{path} is not readable as parquet", "write it again"),
        pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        names = file.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise Refused(f"{path} has two columns called {printable(twice)}; rename one")
        about, groups = file.metadata, [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
        if about.num_rows != sum(group.num_rows for group in groups):
            raise ValueError("its groups have other numbers of rows than the file")
        # Each value takes a byte at least, and what the file says of itself is known before anything is read.
        claimed = max(about.num_rows * max(1, len(names)), sum(group.total_byte_size for group in groups))
        if claimed > most:
            raise _too_large(path)
        batches, size = [], 0
        for batch in file.iter_batches(BATCH):
            coded = [pyarrow.types.is_dictionary(column.type) for column in batch.columns]
            whole = [c.dictionary_decode() if one else c for c, one in zip(batch.columns, coded, strict=True)]
            batch = pyarrow.RecordBatch.from_arrays(whole, names)
            size += batch.nbytes
            if size > most:
                raise _too_large(path)
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()
        if table.num_rows != about.num_rows:
            raise ValueError(f"it has {table.num_rows} rows and says {about.num_rows}")
        columns = {}
        for name, values in zip(table.column_names, table.columns, strict=True):
            numeric = pyarrow.types.is_floating(values.type) or pyarrow.types.is_integer(values.type)
            columns[name] = values.to_numpy() if numeric and not values.null_count else values.to_pylist()
    return Table(path, columns, "row", range(1, 1 + table.num_rows))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name, held against the bytes there are before any memory is taken.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, holds Python objects, or claims more than is read of a file of its size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {printable(str(path), 300)}; give one that numpy.savez has written")
    unreadable = f"{path} is not readable as npz"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{unreadable} (it is no zip archive); write it with numpy.savez")
    with (
        refusing(unreadable, "write it with numpy.savez"),
        open_archive(path, str(path), allowed(path.stat().st_size)) as archive,
    ):
        return {name.removesuffix(".npy"): _array(archive, name) for name in archive.select("")}


def _npz(path: Path) -> Table:
    columns = read_npz(path)
    columns = {name: column.tolist() if column.dtype.kind in "US" else column for name, column in columns.items()}
    sizes = {name: len(column) if np.ndim(column) else None for name, column in columns.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise ValueError(f"{path} has arrays of the lengths {sizes}; write one value an example in each")
    return Table(path, columns, "row", range(1, 1 + next(iter(sizes.values()), 0)))


def _array(archive: Archive, name: str) -> np.ndarray:
    """An array of an npz file, whose header is held against the bytes there are before any memory is taken."""
    with archive.open(name) as file:
        content = io.BytesIO(file.read())
    version = np.lib.format.read_magic(content)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, columns_first, kind = read(content)
    left = content.getbuffer()[content.tell() :]
    if kind.hasobject:
        raise ValueError(f"array {printable(name)} holds Python objects, which are never unpickled")
    if math.prod(shape) * kind.itemsize != len(left):
        raise ValueError(f"array {printable(name)} claims the shape {shape} of {kind} and has {len(left)} bytes")
    return np.frombuffer(left, kind).reshape(shape, order="F" if columns_first else "C").copy()


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else one_line(error).partition(";")[0]


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": None, ".tsv": None, ".parquet": _parquet, ".npz": _npz}
"""How a file is read, by its ending."""
