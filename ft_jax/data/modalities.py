"""Examples of several modalities, any of them missing: of columns, of files that a table names, of tars."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ft_jax import assets
from ft_jax.assets.archives import allowed, escapes, open_archive
from ft_jax.data.dataset import Computed, Dataset
from ft_jax.data.media import Broken, audio_of, image_of
from ft_jax.data.tables import read_table
from ft_jax.outside import one_line, parse_json, printable, trouble_with

PRESENT = "present"
MOST_MEMBER = 1 << 28
"""Bytes of a member of a shard at most."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A modality of images.

    Attributes:
      column: that holds paths, or in a tar the endings of members, such as ``"jpg"`` (several by ``"jpg|png"``).
      size: ``(height, width)`` that images are brought to.
      channels: 1 for grey, 3 for colours.
    """

    column: str = "image"
    size: tuple[int, int] = (224, 224)
    channels: int = 3

    field = "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (*self.size, self.channels)

    def decode(self, stream: Any, title: str) -> np.ndarray:
        """Pixels in [0, 1]; raises `Broken`."""
        return image_of(stream, title, self.size, self.channels)


@dataclasses.dataclass(frozen=True)
class Audio:
    """A modality of sound.

    Attributes:
      column: as for `Image`, of files in wav.
      rate: samples a second that all files must have.
      samples: to which sounds are cut or filled with silence.
    """

    column: str = "audio"
    rate: int = 16000
    samples: int = 16000

    field = "audio"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.samples,)

    def decode(self, stream: Any, title: str) -> np.ndarray:
        """Samples in [-1, 1]; raises `Broken`."""
        return audio_of(stream, title, self.rate, self.samples)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that was left out.

    Attributes:
      example: its place, or its key in a tar.
      reason: a sentence.
    """

    example: int | str
    reason: str


@dataclasses.dataclass(frozen=True)
class Collected:
    """What was read.

    Attributes:
      dataset: of the examples that are whole: a part for each modality, ``{field: value, "present": 0 or 1}``, and the
        other columns.
      skipped: those that are not.
      examples: of each that is whole its place in the table, or its key in a tar.
    """

    dataset: Dataset
    skipped: tuple[Skipped, ...] = ()
    examples: tuple[int | str, ...] = ()


def modalities(dataset: Dataset, **parts: str) -> Dataset:
    """Columns as parts of examples: ``modalities(d, image="images")`` gives ``example["image"]["images"]``.

    Where a column holds None (or a text is empty) the example lacks the modality: its part says ``present`` 0 and holds
    zeros of the shape that the others have, which no model reads.

    Args:
      dataset: such as TFDS's pairs of images and captions (`ft_jax.data.from_tfds`).
      **parts: the column by the modality; its name is also the field's, so tokens are in ``input_ids``.

    Raises:
      KeyError: a column that is not there.
      ValueError: no part, an example without any, or a column without a single value.

    Example:
      >>> one = Dataset({"images": [np.ones((2, 2, 1)), None], "numbers": [np.zeros(3), np.ones(3)]})
      >>> both = modalities(one, image="images", table="numbers")
      >>> [float(example["image"]["present"]) for example in both]
      [1.0, 0.0]
    """
    if not parts:
        raise ValueError("modalities needs at least one part, such as image='images'")
    columns = {name: dataset.column(column) for name, column in parts.items()}
    there = {name: [_there(value) for value in column] for name, column in columns.items()}
    _check_any(there, range(len(dataset)))
    made = {}
    for name, column in columns.items():
        empty = _empty(name, parts[name], column, there[name])
        made[name] = [
            {parts[name]: value if seen else empty, PRESENT: np.float32(seen)}
            for value, seen in zip(column, there[name], strict=True)
        ]
    kept = {name: column for name, column in dataset.columns.items() if name not in parts.values()}
    return dataclasses.replace(dataset, columns={**kept, **made})


def referenced(
    address: str | Path,
    parts: Mapping[str, Image | Audio],
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    root: str | Path | None = None,
    texts: Sequence[str] = (),
) -> Collected:
    """Examples of a table (jsonl, csv, parquet …) whose columns name files of images and sounds.

    Every file is read once in full, so that what is wrong is said before anything trains; its pixels are decoded again
    when a batch asks for them.

    Args:
      address: of the table, or any address that `ft_jax.assets.resolve` takes.
      parts: modalities by name. A row whose cell is empty lacks it.
      broken: what to do with an example one of whose files is missing, truncated or of another rate: ``"refuse"`` the
        table with a sentence that says which, or ``"skip"`` the example and count it.
      root: the folder that paths start in; the table's own by default. No path may leave it.
      texts: columns that are modalities as they stand, so that a row with a text there may lack all files.

    Raises:
      ValueError: a broken example where they are refused; a path that leaves the folder; an example without any
        modality; no example left.
      KeyError: a column that the table lacks.
    """
    path = assets.resolve(address)
    columns = dict(read_table(path).columns)
    folder = Path(path.parent if root is None else root).resolve()

    def opened(name: str, row: int) -> Callable[[], Any] | None:
        value = columns[parts[name].column][row]
        if value is None or value == "" or value != value:
            return None
        value = str(value)
        target = (folder / value).resolve()
        if escapes(value) or not target.is_relative_to(folder):
            raise ValueError(
                f"{path.name}, row {row}: {printable(value)} leaves the folder {folder}; give paths inside it"
            )
        if not target.is_file():
            raise Broken(f"there is no file {printable(value)}")
        return lambda: open(target, "rb")

    for name, part in parts.items():
        if part.column not in columns:
            raise KeyError(
                f"{path.name} has no column {printable(part.column)} for {printable(name)}; it has {', '.join(columns)}"
            )
    used = {part.column for part in parts.values()}
    rows = range(len(next(iter(columns.values()))))
    written = {name: columns[name] for name in texts if name in columns}
    kept, streams, skipped = _checked(path.name, rows, parts, opened, broken, written)
    rest = {
        ("labels" if name == "label" else name): [column[row] for row in kept]
        for name, column in columns.items()
        if name not in used
    }
    return Collected(Dataset({**_parts(parts, streams, path.name, kept), **rest}), skipped, tuple(kept))


def shards(
    addresses: Sequence[str | Path],
    parts: Mapping[str, Image | Audio],
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    texts: bool = False,
) -> Collected:
    """Examples of tar files as webdataset writes them: members ``KEY.ENDING`` of one key are one example.

    Endings of `parts` are decoded; ``json`` gives its fields, ``txt`` the column ``text`` and ``cls`` the column
    ``labels``. Tars are read as anything from outside: no member that would be written elsewhere, no link or device,
    and no more bytes than an archive of its size may hold (`ft_jax.assets.archives`).

    Args:
      addresses: of the tars.
      parts, broken: as for `referenced`.
      texts: whether ``txt`` is a modality, so that an example may have nothing else.

    Raises:
      AssetRefused: a tar that is damaged, or whose members escape or burst.
      ValueError: as for `referenced`; a member that is larger than 256 MiB; text that is not UTF-8 or JSON.
    """
    examples: dict[str, dict[str, bytes]] = {}
    for address in addresses:
        path = assets.resolve(address)
        with open_archive(path, path.name, allowed(path.stat().st_size)) as archive:
            archive.select("")
            for member in archive.files:
                folder, slash, name = member.rpartition("/")
                key, _, ending = name.partition(".")
                if archive.sizes[member] > MOST_MEMBER:
                    raise ValueError(
                        f"{path.name}: member {printable(member)} has {archive.sizes[member]} bytes; cut it up"
                    )
                fields = examples.setdefault(f"{path.name}:{folder}{slash}{key}", {})
                if ending.lower() in fields:
                    raise ValueError(
                        f"{path.name}: {printable(member)} is there twice; give every example a key of its own"
                    )
                with archive.open(member) as stream:
                    fields[ending.lower()] = stream.read(MOST_MEMBER)
    keys = list(examples)

    def opened(name: str, row: int) -> Callable[[], Any] | None:
        fields = examples[keys[row]]
        held = next((fields[ending] for ending in parts[name].column.split("|") if ending in fields), None)
        return None if held is None else lambda: io.BytesIO(held)

    written = {"txt": [fields.get("txt") for fields in examples.values()]} if texts else {}
    kept, streams, skipped = _checked("the shards", range(len(keys)), parts, opened, broken, written, keys)
    told = [_told(keys[row], examples[keys[row]]) for row in kept]
    names = dict.fromkeys(name for one in told for name in one)
    rest = {name: [one.get(name) for one in told] for name in names if name not in parts}
    whole = {**_parts(parts, streams, "the shards", kept), **rest}
    return Collected(Dataset(whole), skipped, tuple(keys[row] for row in kept))


def _told(key: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        found = parse_json(fields["json"], "its json") if "json" in fields else {}
        wrong = next((name for name in found if not name or trouble_with(name)), None)
        if wrong is not None:
            raise ValueError(f"its json has the field {printable(wrong)}, which is no name")
        if "txt" in fields:
            found["text"] = fields["txt"].decode("utf-8").strip()
        if "cls" in fields:
            found["labels"] = int(fields["cls"].decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"example {key} can't be read ({one_line(error)}); write it anew") from None
    return found


def _checked(title, rows, parts, opened, broken, written, keys=None):
    """The rows that are whole, their streams by modality, and those that are not; `written` are columns of texts."""
    if broken not in ("refuse", "skip"):
        raise ValueError(f"broken is {printable(broken)}; use 'refuse' or 'skip'")
    kept, streams, skipped = [], {name: [] for name in parts}, []
    for row in rows:
        label = row if keys is None else keys[row]
        try:
            found = {name: opened(name, row) for name in parts}
            for name, stream in found.items():
                if stream is not None:
                    with stream() as file:
                        parts[name].decode(file, name)
        except Broken as error:
            if broken == "refuse":
                remedy = "mend it, or pass broken='skip' (--data.broken skip)"
                raise ValueError(f"{title}, example {label}: {error}; {remedy}") from None
            skipped.append(Skipped(label, str(error)))
            continue
        there = {name: [stream is not None] for name, stream in found.items()}
        there |= {name: [_there(column[row])] for name, column in written.items()}
        if there:
            _check_any(there, [label])
        kept.append(row)
        for name, stream in found.items():
            streams[name].append(stream)
    if not kept:
        raise ValueError(f"{title} has no example that can be read ({len(skipped)} skipped); look at its first")
    return kept, streams, tuple(skipped)


def _parts(parts, streams, title, kept):
    def column(name):
        part, own = parts[name], streams[name]

        def compute(index):
            if own[index] is None:
                return {part.field: np.zeros(part.shape, np.float32), PRESENT: np.float32(0)}
            with own[index]() as file:
                return {part.field: part.decode(file, f"{title}, example {kept[index]}"), PRESENT: np.float32(1)}

        return Computed(len(own), compute)

    return {name: column(name) for name in parts}


def _check_any(there: Mapping[str, Sequence[bool]], labels: Sequence[Any]) -> None:
    for place, label in enumerate(labels):
        if not any(flags[place] for flags in there.values()):
            raise ValueError(f"example {label} has none of {', '.join(there)}; give it one, or drop it")


def _there(value: Any) -> bool:
    return value is not None and not (isinstance(value, str | list | tuple) and len(value) == 0)


def _empty(name, field, column, there) -> Any:
    first = next((value for value, seen in zip(column, there, strict=True) if seen), None)
    if first is None:
        raise ValueError(f"no example has a value in {printable(field)} for {printable(name)}; leave the part out")
    return np.zeros(0 if field == "input_ids" else np.shape(first), np.asarray(first).dtype)
