"""The one type of data set: named columns with random access."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.columns import as_numbers
from ft_jax.outside import listed, printable

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Computed:
    """A column whose values are made when they are read, for data that should not be held in memory.

    Attributes:
      length: how many there are.
      compute: the value at an index from 0 to ``length - 1``.

    Example:
      >>> Computed(3, lambda index: index * 10)[-1]
      20
    """

    length: int
    compute: Callable[[int], Any]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        place = int(index) + self.length if index < 0 else int(index)
        if not 0 <= place < self.length:
            raise IndexError(f"index {index} is outside a column of {self.length}")
        return self.compute(place)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples as named columns of one length.

    Columns carry the names that batches have: ``labels``, ``images``, ``input_ids``; texts are in ``text``.

    Attributes:
      columns: by name, each a numpy array ``[examples, ...]``, a list, or a `Computed` column.
      classes: names of the class ids in ``labels``; empty where there are none.

    Raises:
      ValueError: the columns differ in length, or there is none.

    Example:
      >>> people = Dataset({"text": ["good", "bad", "fine"], "labels": np.array([1, 0, 1])}, ("negative", "positive"))
      >>> len(people), people[1]["text"], people.take(2).columns["text"]
      (3, 'bad', ['good', 'bad'])
      >>> people.map(lambda example: {"size": len(example["text"])}).columns["size"]
      array([4, 3, 4])
    """

    columns: Mapping[str, Sequence]
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.columns:
            raise ValueError("a data set needs at least one column; give it some")
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"the columns of a data set have different lengths, {lengths}; give them one value an example"
            )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} is outside a data set of {len(self)}")
        return {name: column[index] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        classes = f", classes={self.classes}" if self.classes else ""
        return f"Dataset({len(self)} examples of {listed(self.columns)}{classes})"

    def column(self, name: str) -> Sequence:
        """One column.

        Raises:
          KeyError: there is none of that name; the columns that exist are listed.
        """
        if name not in self.columns:
            raise KeyError(
                f"the data set has no column {printable(name)}; it has {listed(self.columns)}, so rename one of them"
            )
        return self.columns[name]

    def take(self, which: int | slice | Sequence[int]) -> "Dataset":
        """The first so many examples, or a slice, or those at the given indices in their order."""
        if isinstance(which, int | np.integer):
            which = slice(0, which)
        places = np.arange(len(self))[which] if isinstance(which, slice) else np.asarray(which, dtype=np.int64)
        return dataclasses.replace(self, columns={name: _pick(column, places) for name, column in self.columns.items()})

    def filter(self, keep: Callable[[Record], bool]) -> "Dataset":
        """The examples for which ``keep`` holds."""
        return self.take([index for index, example in enumerate(self) if keep(example)])

    def select(self, *names: str) -> "Dataset":
        """The columns of those names alone."""
        return dataclasses.replace(self, columns={name: self.column(name) for name in names})

    def rename(self, **names: str) -> "Dataset":
        """Columns under new names, ``new="old"``; the others stay."""
        for name in names.values():
            self.column(name)
        new = {old: name for name, old in names.items()}
        return dataclasses.replace(self, columns={new.get(name, name): column for name, column in self.columns.items()})

    def with_columns(self, **columns: Sequence) -> "Dataset":
        """With further columns, or other ones in place of those of the same name."""
        return dataclasses.replace(self, columns={**self.columns, **columns})

    def map(self, function: Callable[[Record], Record]) -> "Dataset":
        """Every example replaced by what ``function`` makes of it, now and in memory.

        What should be drawn anew in every epoch goes into ``transform`` of `ft_jax.data.batches` instead.
        """
        return dataclasses.replace(
            self, columns=columns_of([function(example) for example in self], tuple(self.columns))
        )

    def split(self, fractions: Mapping[str, float], by: str | None = None) -> dict[str, "Dataset"]:
        """Disjoint parts, by a digest of a column's value: the same on every computer, whatever else is in the set.

        Args:
          fractions: share of each part by name; they sum to 1.
          by: the column whose value decides; examples with equal values stay together. None is the position.

        Raises:
          ValueError: the fractions don't sum to 1.

        Example:
          >>> digits = Dataset({"x": np.arange(1000)})
          >>> {name: len(part) for name, part in digits.split({"train": 0.9, "test": 0.1}).items()}
          {'train': 905, 'test': 95}
        """
        if abs(sum(fractions.values()) - 1) > 1e-6:
            raise ValueError(f"the fractions {dict(fractions)} of a split sum to {sum(fractions.values())}; make it 1")
        keys = range(len(self)) if by is None else self.column(by)
        places = np.array([digest_fraction(key) for key in keys])
        edges = np.cumsum([0.0, *fractions.values()])
        edges[-1] = 1.0
        return {
            name: self.take(np.flatnonzero((places >= low) & (places < high)))
            for name, low, high in zip(fractions, edges[:-1], edges[1:], strict=True)
        }

    def encode_labels(self, column: str = "labels", classes: Sequence[str] = ()) -> "Dataset":
        """Names in a column turned to class ids, and ``classes`` set.

        Args:
          column: the one with the names; the ids are put in its place.
          classes: the names in the order of their ids; by default those that occur, sorted.

        Raises:
          ValueError: a name is not among ``classes``; an example has no label, or an empty one.

        Example:
          >>> Dataset({"labels": ["yes", "no", "yes"]}).encode_labels().columns["labels"]
          array([1, 0, 1], dtype=int32)
        """
        names = []
        for place, name in enumerate(self.column(column)):
            if name is None or name != name or not str(name).strip():
                raise ValueError(
                    f"example {place} has the label {printable(name)} in column {printable(column)}; give it one or "
                    "drop the example"
                )
            names.append(str(name))
        known = tuple(classes) or tuple(sorted(set(names)))
        ids = {name: place for place, name in enumerate(known)}
        for place, name in enumerate(names):
            if name not in ids:
                raise ValueError(
                    f"label {printable(name)} at example {place} is none of the classes {listed(known)}; add it"
                )
        encoded = np.array([ids[name] for name in names], dtype=np.int32)
        return dataclasses.replace(self.with_columns(**{column: encoded}), classes=known)


def concatenate(datasets: Iterable[Dataset]) -> Dataset:
    """Several data sets of the same columns and classes, one after the other.

    Raises:
      ValueError: there is none, or they differ in columns or classes.
    """
    datasets = list(datasets)
    shapes = {(tuple(sorted(one.columns)), one.classes) for one in datasets}
    if len(shapes) != 1:
        raise ValueError(
            f"data sets of different columns or classes cannot be joined: {sorted(shapes)}; make them equal"
        )
    first = datasets[0]
    joined = {name: _join([one.columns[name] for one in datasets]) for name in first.columns}
    return dataclasses.replace(first, columns=joined)


def digest_fraction(key: Any) -> float:
    """A number from 0 to 1 that depends on nothing but the key's text.

    Example:
      >>> round(digest_fraction("a sentence"), 6) == round(digest_fraction("a sentence"), 6)
      True
    """
    digest = hashlib.sha256(str(key).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def columns_of(records: Sequence[Record], names: Sequence[str] = ()) -> dict[str, Sequence]:
    """Records turned to columns, see `ft_jax.data.columns.as_numbers`.

    Args:
      records: all with the same fields.
      names: the columns to make where there is no record.

    Raises:
      ValueError: a record lacks a field of the first.
    """
    if not records:
        return {name: [] for name in names}
    fields = tuple(records[0])
    for place, record in enumerate(records):
        if record.keys() != records[0].keys():
            raise ValueError(
                f"example {place} has the fields {listed(record)} and the first has {listed(fields)}; "
                "give every example the same"
            )
    return {name: as_numbers([record[name] for record in records]) for name in fields}


def _pick(column: Sequence, places: np.ndarray) -> Sequence:
    if isinstance(column, np.ndarray):
        return column[places]
    if isinstance(column, Computed):
        return Computed(len(places), lambda index: column[places[index]])
    return [column[place] for place in places]


def _join(columns: list[Sequence]) -> Sequence:
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    if not any(isinstance(column, Computed) for column in columns):
        return [value for column in columns for value in column]
    ends = np.cumsum([len(column) for column in columns])

    def value(index: int) -> Any:
        which = int(np.searchsorted(ends, index, side="right"))
        return columns[which][index - (ends[which - 1] if which else 0)]

    return Computed(int(ends[-1]), value)
