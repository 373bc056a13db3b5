"""Batches in an order that a seed decides and that can be taken up again anywhere."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ft_jax.data.checks import check_not_empty
from ft_jax.data.collate import Length, bucket, collate, lengths, with_row_weights
from ft_jax.data.dataset import Computed, Dataset
from ft_jax.data.kinds import kinds_of
from ft_jax.outside import printable

Transform = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, Any]]

ENDLESS = 2**48
"""Batches of a stream without an end; at a million a second it would last for years."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Every batch of a stream as a function of its number: nothing depends on what was read before.

    Global batch ``number`` holds the same examples however many processes share it; this process takes its rows
    ``process``, ``process + processes``, ….

    Attributes:
      dataset: the examples.
      batch_size: rows of a batch of one process.
      seed: of the order and of the transform's draws.
      epochs: how many times through the data; None is without end.
      shuffle: whether each epoch has an order of its own, or that of the data set.
      transform: what is done to each example, with a generator seeded by ``(seed, epoch, index)``.
      length, padding: see `ft_jax.data.collate`.
      group_by_length: batches of which the examples are sorted by length before they are dealt out.
      remainder: ``"drop"``, or ``"pad"`` the last batch of an epoch with rows of weight 0.
      process, processes: which of how many processes this is.
      index: whether batches have a field ``index``, int32, with each example's place in the data set.
    """

    dataset: Dataset
    batch_size: int
    seed: int = 0
    epochs: int | None = None
    shuffle: bool = True
    transform: Transform | None = None
    length: Length = None
    padding: int = 0
    group_by_length: int = 1
    remainder: str = "drop"
    process: int = 0
    processes: int = 1
    index: bool = False

    def __post_init__(self):
        check_not_empty(self.dataset)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; make it at least 1")
        if self.remainder not in ("drop", "pad"):
            raise ValueError(f"remainder={printable(self.remainder)} is neither 'drop' nor 'pad'; take one of them")
        if self.group_by_length < 1:
            raise ValueError(f"group_by_length is {self.group_by_length}; make it at least 1, which groups nothing")
        if not 0 <= self.process < self.processes:
            raise ValueError(f"process {self.process} is none of {self.processes}; count them from 0")
        if self.index and "index" in self.dataset.columns:
            raise ValueError("the data set has a column 'index' already; rename it, or leave index out")
        if not self.per_epoch:
            raise ValueError(
                f"a batch of {self.batch_size * self.processes} needs as many examples and the data set has "
                f"{len(self.dataset)}; make batch_size at most {len(self.dataset) // self.processes}, or give more"
            )
        import grain  # Slow to import, and only pipelines need it; families import this package for augmentation.

        # Seeds of grain count up over epochs; spread, those of neighbouring runs don't overlap.
        spread = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        order = grain.MapDataset.range(len(self.dataset))
        object.__setattr__(self, "_order", order.shuffle(seed=spread) if self.shuffle else order)
        object.__setattr__(self, "_sizes", token_counts(self.dataset))
        # A transform makes fields of its own, and reading computed columns is work: their kinds are each batch's.
        held = {} if self.transform else self.dataset.columns
        held = {name: column for name, column in held.items() if not isinstance(column, Computed)}
        object.__setattr__(self, "_kinds", kinds_of(held))
        if self.group_by_length > 1 and self._sizes is None:
            raise ValueError(
                "group_by_length needs token sequences in the data set; tokenize it first, or leave it at 1"
            )
        # One window serves its batches in turn, whichever of the threads asks.
        object.__setattr__(self, "_window", functools.lru_cache(maxsize=4)(self._sorted_window))

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch."""
        share = len(self.dataset) / (self.batch_size * self.processes)
        return math.floor(share) if self.remainder == "drop" else math.ceil(share)

    def __len__(self) -> int:
        return ENDLESS if self.epochs is None else self.epochs * self.per_epoch

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, place = divmod(number, self.per_epoch)
        together = self._indices(epoch, place)
        own = together[self.process :: self.processes]
        examples = [self._example(epoch, index) for index in own]
        real = len(examples)
        # A process may have no row of its own in the last batch; a repeated one has the right shapes and counts for 0.
        stand_in = examples[0] if examples else self._example(epoch, together[0])
        rows = examples + [stand_in] * (self.batch_size - real)
        batch = collate(rows, self._row_length(together, rows), self.padding, self._kinds)
        if self.index:
            places = own + [own[0] if own else together[0]] * (self.batch_size - real)
            batch = {**batch, "index": np.asarray(places, np.int32)}
        return with_row_weights(batch, real) if self.remainder == "pad" else batch

    def rows(self, number: int) -> list[int]:
        """The examples of global batch ``number`` by their places in the data set, all processes' together."""
        return self._indices(*divmod(number, self.per_epoch))

    def _indices(self, epoch: int, place: int) -> list[int]:
        """The examples of an epoch's batch at ``place``, all processes' together."""
        if self.group_by_length == 1:
            return self._ranked(epoch, place, place + 1)
        window, inside = divmod(place, self.group_by_length)
        return self._window(epoch, window)[inside]

    def _ranked(self, epoch: int, first: int, last: int) -> list[int]:
        size, rows = len(self.dataset), self.batch_size * self.processes
        return [int(self._order[epoch * size + rank]) for rank in range(first * rows, min(last * rows, size))]

    def _sorted_window(self, epoch: int, window: int) -> list[list[int]]:
        """A window's batches, each of examples of similar length, in an order that is not that of their lengths."""
        first = window * self.group_by_length
        last = min(first + self.group_by_length, self.per_epoch)
        indices = sorted(self._ranked(epoch, first, last), key=lambda index: self._sizes[index])
        rows = self.batch_size * self.processes
        dealt = [indices[start : start + rows] for start in range(0, len(indices), rows)]
        if not self.shuffle:
            return dealt
        full = len(dealt) if len(dealt[-1]) == rows else len(dealt) - 1
        turns = np.random.default_rng([self.seed, epoch, window]).permutation(full)
        return [dealt[turn] for turn in turns] + dealt[full:]

    def _row_length(self, together: list[int], rows: list[Mapping[str, Any]]) -> Length:
        """One length for a batch's rows in every process, each of which sees only its own."""
        if self.processes == 1 or isinstance(self.length, int):
            return self.length
        if self._sizes is not None:
            return bucket(max(int(self._sizes[index]) for index in together), self.length)
        if any(lengths(rows)):
            raise ValueError(
                f"{self.processes} processes don't know each other's row lengths when tokens are made on the way; "
                "pass length= as one number, or tokenize the data set first"
            )
        return None

    def _example(self, epoch: int, index: int) -> Mapping[str, Any]:
        example = self.dataset[index]
        if self.transform is None:
            return example
        return self.transform(example, np.random.default_rng([self.seed, epoch, index]))

    def every_shape(self) -> list[dict[str, Any]]:
        """A batch of every shape that this stream's batches may have: of one length, of each bucket, or the extremes.

        Where no length is given each batch is as long as its longest row, and only the shortest and the longest are
        shown. Where tokens are made on the way nothing is known but the first batch.
        """
        if self._sizes is None or isinstance(self.length, int):
            return [self[0]]
        lasting = {bucket(int(size), self.length): place for place, size in enumerate(self._sizes)}
        chosen = sorted(lasting) if self.length is not None else sorted({min(lasting), max(lasting)})
        return [self._of_one(lasting[size]) for size in chosen]

    def _of_one(self, index: int) -> dict[str, Any]:
        """A batch of one example again and again."""
        rows = [self._example(0, index)] * self.batch_size
        batch = collate(rows, self.length, self.padding, self._kinds)
        if self.index:
            batch = {**batch, "index": np.full(self.batch_size, index, np.int32)}
        return with_row_weights(batch, self.batch_size) if self.remainder == "pad" else batch

    def identity(self) -> dict[str, Any]:
        """What must be equal for a saved place to mean the same batch."""
        return {
            "examples": len(self.dataset),
            "batch_size": self.batch_size,
            "processes": self.processes,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "group_by_length": self.group_by_length,
            "remainder": self.remainder,
        }


def token_counts(dataset: Dataset) -> np.ndarray | None:
    """Tokens of each example, the longest of its parts; None where there are none, or where reading them is work."""
    counts = np.zeros(len(dataset), dtype=np.int64)
    found = False
    for name, column in dataset.columns.items():
        if isinstance(column, Computed) or not len(column):
            continue
        if name == "input_ids" or (isinstance(column[0], Mapping) and "input_ids" in column[0]):
            sequences = column if name == "input_ids" else [part["input_ids"] for part in column]
            counts = np.maximum(counts, [0 if sequence is None else len(sequence) for sequence in sequences])
            found = True
    return counts if found else None


class Batches:
    """An iterator of batches that can say and take its place; threads read ahead of it.

    ``get_state`` gives something JSON can hold, which counts the batches handed out and not those read ahead; after
    ``set_state(get_state())`` the same batches follow, bit by bit.
    """

    def __init__(self, plan: Plan, threads: int = 2, ahead: int = 4):
        self.plan = plan
        import grain

        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead if threads else 0)
        self._iterator = iter(grain.MapDataset.source(plan).to_iter_dataset(options))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    @property
    def steps(self) -> int | None:
        """How many batches there are in all, or None without end."""
        return None if self.plan.epochs is None else len(self.plan)

    def every_shape(self) -> list[dict[str, Any]]:
        """A batch of every shape that may come, see `Plan.every_shape`; the place in the data stays where it is."""
        return self.plan.every_shape()

    def get_state(self) -> dict[str, Any]:
        """The place after the last batch that was handed out."""
        return {"order": self._iterator.get_state(), "of": self.plan.identity()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a place.

        Raises:
          ValueError: it is a place in other data, or in the same data batched otherwise.
        """
        for name, value in self.plan.identity().items():
            if state["of"][name] != value:
                raise ValueError(
                    f"the saved place in the data is one with {name} {state['of'][name]} and now {name} is {value}; "
                    "go on with the same data, or start anew"
                )
        self._iterator.set_state(dict(state["order"]))


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    epochs: int | None = None,
    shuffle: bool = True,
    transform: Transform | None = None,
    length: Length = None,
    padding: int = 0,
    group_by_length: int = 1,
    remainder: str = "drop",
    process: int = 0,
    processes: int = 1,
    index: bool = False,
    threads: int = 2,
    ahead: int = 4,
) -> Batches:
    """Batches for training: shuffled anew in every epoch by the seed, shared over processes, read ahead by threads.

    Args:
      dataset: the examples.
      batch_size: rows of a batch of one process.
      seed: of the order, and of the transform's draws.
      epochs: how many times through the data; None is without end.
      shuffle: whether each epoch has an order of its own.
      transform: ``(example, generator) -> example``, such as `ft_jax.data.mask_tokens`, applied anew in every epoch;
        the generator depends on seed, epoch and the example's index alone.
      length: tokens of a row, see `ft_jax.data.collate`.
      padding: id of the padding token.
      group_by_length: so many batches' examples are sorted by length and dealt out again, so that a batch holds
        similar lengths and, with buckets, little padding; the batches' order stays mixed. 1 groups nothing.
      remainder: what is done with an epoch's last examples that don't fill a batch: ``"drop"``, or ``"pad"`` with rows
        whose ``weights`` are 0 (then every batch has ``weights``).
      process: this process's number; it gets rows ``process``, ``process + processes``, … of the common order.
      processes: how many there are.
      index: whether every batch has a field ``index``, int32 ``[batch]``, with each example's place in the data set:
        what remembers something of an example finds it again by it.
      threads: that read ahead; 0 reads when asked.
      ahead: how many batches they may be in front.

    Raises:
      ValueError: the data set is empty or smaller than a batch, or an argument is out of its range.

    Example:
      >>> stream = batches(Dataset({"x": np.arange(10)}), 4, seed=1, epochs=2)
      >>> first, place = next(stream), stream.get_state()
      >>> rest = [batch["x"].tolist() for batch in stream]
      >>> stream.set_state(place)
      >>> rest == [batch["x"].tolist() for batch in stream], stream.steps
      (True, 4)
    """
    plan = Plan(
        dataset,
        batch_size,
        seed=seed,
        epochs=epochs,
        shuffle=shuffle,
        transform=transform,
        length=length,
        padding=padding,
        group_by_length=group_by_length,
        remainder=remainder,
        process=process,
        processes=processes,
        index=index,
    )
    return Batches(plan, threads, ahead)


class EvaluationBatches:
    """Every example once, in order; the last batch is padded with rows of weight 0. Can be iterated again and again."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(Batches(self.plan, threads=1, ahead=2))

    def every_shape(self) -> list[dict[str, Any]]:
        """A batch of every shape that may come, see `Plan.every_shape`."""
        return self.plan.every_shape()


def evaluation_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    transform: Transform | None = None,
    length: Length = None,
    padding: int = 0,
    process: int = 0,
    processes: int = 1,
    index: bool = False,
) -> EvaluationBatches:
    """Batches for evaluation: every example once, in order, with ``weights`` that are 0 in rows that fill the last one.

    Args:
      dataset, batch_size, seed, transform, length, padding, process, processes, index: as for `batches`.

    Raises:
      ValueError: the data set is empty, or an argument is out of its range.

    Example:
      >>> parts = evaluation_batches(Dataset({"labels": np.arange(5)}), 2)
      >>> [batch["weights"].tolist() for batch in parts]
      [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    """
    plan = Plan(
        dataset,
        batch_size,
        seed=seed,
        epochs=1,
        shuffle=False,
        transform=transform,
        length=length,
        padding=padding,
        remainder="pad",
        process=process,
        processes=processes,
        index=index,
    )
    return EvaluationBatches(plan)
