"""Sources of episodes: N-way K-shot tasks of any data with classes, domains as tasks, and sinusoids."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.data.collate import collate
from ft_jax.data.dataset import Dataset
from ft_jax.training.specs import short
from ft_jax.training.stream import Batch, Feed, Stream, Task

HELD_OUT_SEED = 10**6
"""Of the episodes of an evaluation, which are the same in every run."""

Draw = Callable[[np.random.Generator], Mapping[str, Batch]]
"""``generator -> {"support": fields [n, ...], "query": fields [m, ...]}``, one task."""


class EpisodeSource:
    """An endless source of batches of episodes; batch ``number`` depends on the seed and its number alone.

    Args:
      draw: gives one task.
      tasks: of a batch.
      seed: of the tasks.
      process, processes: this process's share are the tasks ``process, process + processes, ...`` of a batch.
    """

    def __init__(self, draw: Draw, tasks: int, seed: int, process: int = 0, processes: int = 1):
        self.draw, self.tasks, self.seed, self.number = draw, tasks, seed, 0
        self.process, self.processes = process, processes

    def __next__(self) -> dict[str, Any]:
        """The next batch, ``{"support": fields [tasks, n, ...], "query": fields [tasks, m, ...]}``."""
        places = [self.process + self.processes * index for index in range(self.tasks)]
        tasks = [self.draw(np.random.default_rng([self.seed, self.number, place])) for place in places]
        self.number += 1
        return stacked(tasks)

    def get_state(self) -> int:
        """The next batch's number."""
        return self.number

    def set_state(self, state: int) -> None:
        """Goes on from a number."""
        self.number = int(state)


def stacked(tasks: Sequence[Mapping[str, Batch]]) -> dict[str, Any]:
    """Tasks as a batch of episodes, on a new first axis.

    Example:
      >>> stacked([{"support": {"x": np.zeros(3)}, "query": {"x": np.ones(5)}}] * 2)["query"]["x"].shape
      (2, 5)
    """
    return {
        part: {field: np.stack([task[part][field] for task in tasks]) for field in tasks[0][part]}
        for part in ("support", "query")
    }


def held_out_batches(draw: Draw, episodes: int, size: int) -> list[dict[str, Any]]:
    """`episodes` fixed tasks in batches of at most `size`."""
    tasks = [draw(np.random.default_rng([HELD_OUT_SEED, place])) for place in range(episodes)]
    return [stacked(tasks[start : start + size]) for start in range(0, episodes, size)]


@dataclasses.dataclass(frozen=True)
class FewShot:
    """N-way K-shot episodes of a data set with classes: images, or texts that the model's tokenizer reads.

    Every task has `ways` classes drawn anew, whose ids are 0 to ``ways - 1`` in the order drawn, `shots` support and
    `queries` query examples of each. Classes to train on and to test on are apart.

    Attributes:
      address: a data set with ``labels``, see `ft_jax.data.load`.
      train: class ids to train on.
      test: class ids that training never shows.
      ways: classes of a task.
      shots: support examples of a class in an evaluation, and in training by default.
      train_shots: those in training; Reptile wants more.
      queries: query examples of a class.
      episodes: how many fixed tasks an evaluation has.
      split: of the data set; None for all of it.
      length: the most tokens of a text.
    """

    address: str = "digits"
    train: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    ways: int = 5
    shots: int = 1
    train_shots: int | None = None
    queries: int = 5
    episodes: int = 100
    split: str | None = None
    length: int = 64

    def check(self) -> None:
        """Raises ValueError on classes and numbers that make no tasks."""
        both = set(self.train) & set(self.test)
        if both:
            raise ValueError(f"data.train and data.test share class {min(both)}; keep the classes apart")
        for name in ("train", "test"):
            if len(getattr(self, name)) < self.ways:
                raise ValueError(
                    f"data.{name} has {len(getattr(self, name))} classes for tasks of {self.ways}; give at least "
                    f"{self.ways} or lower data.ways"
                )
        for name in ("ways", "shots", "queries", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; give at least 1")

    def outputs(self) -> int:
        """How many outputs a head for the tasks needs."""
        return self.ways

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, the episodes; a batch has ``feed.batch_size`` of them."""
        self.check()
        examples = numbered(data.load(self.address, self.split), model, self.length)
        for classes in (self.train, self.test):
            enough(examples, classes, max(self.shots, self.train_shots or 0) + self.queries, self.address)
        train = drawer(examples, self.train, self.ways, self.train_shots or self.shots, self.queries)
        test = drawer(examples, self.test, self.ways, self.shots, self.queries)
        source = EpisodeSource(train, feed.batch_size, feed.seed, feed.process, feed.processes)
        sets = {"new classes": held_out_batches(test, self.episodes, feed.batch_size)}
        return (Task("episodes", source, sets),)


@dataclasses.dataclass(frozen=True)
class Domains:
    """Episodes whose task is a domain: each has examples of all classes from one of several data sets.

    Attributes:
      train: addresses of domains to train on, with one numbering of classes, see `ft_jax.data.load`.
      test: domains that training never shows.
      shots: support examples of a class.
      queries: query examples of a class.
      episodes: how many fixed tasks each domain's evaluation has.
      length: the most tokens of a text.
    """

    train: tuple[str, ...] = ("sentiment:movies", "sentiment:amazon", "sentiment:news")
    test: tuple[str, ...] = ("sentiment:tweets",)
    shots: int = 4
    queries: int = 8
    episodes: int = 50
    length: int = 32

    def check(self) -> None:
        """Raises ValueError where a side has no domain, or both have one."""
        if not self.train or not self.test or set(self.train) & set(self.test):
            raise ValueError(f"data.train is {self.train} and data.test {self.test}; give each domains of its own")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, the episodes; a batch has ``feed.batch_size`` of them."""
        self.check()
        loaded = data.one_mapping({address: data.load(address) for address in (*self.train, *self.test)})
        sets = {address: numbered(one, model, self.length) for address, one in loaded.items()}
        draws = {}
        for address, examples in sets.items():
            classes = tuple(range(len(examples.classes) or 1 + int(np.max(examples.column("labels")))))
            enough(examples, classes, self.shots + self.queries, address)
            draws[address] = drawer(examples, classes, len(classes), self.shots, self.queries, shuffled=False)

        def draw(generator):
            return draws[self.train[generator.integers(len(self.train))]](generator)

        source = EpisodeSource(draw, feed.batch_size, feed.seed, feed.process, feed.processes)
        held = {short(one): held_out_batches(draws[one], self.episodes, feed.batch_size) for one in self.test}
        return (Task("domains", source, held),)


def numbered(examples: Dataset, model: Any, length: int) -> Dataset:
    """Examples as a model reads them, with ``labels``: texts are tokenized and filled up to one length."""
    if "text" not in examples.columns:
        return examples.select(*(name for name in ("images", "labels") if name in examples.columns))
    tokens = data.tokenize(examples.select("text", "labels"), model.tokenizer, length=length, too_long="truncate")
    batch = collate(list(tokens), length=length, padding=model.pad_token)
    return Dataset({name: np.asarray(column) for name, column in batch.items()}, examples.classes)


def enough(examples: Dataset, classes: Sequence[int], most: int, address: str) -> None:
    """Raises ValueError where a class has fewer than `most` examples."""
    labels = np.asarray(examples.column("labels"))
    for one in classes:
        found = int(np.sum(labels == one))
        if found < most:
            raise ValueError(
                f"{address} has {found} examples of class {one}, and a task takes {most} of each (shots and queries); "
                "lower them or leave the class out"
            )


def drawer(
    examples: Dataset, classes: Sequence[int], ways: int, shots: int, queries: int, shuffled: bool = True
) -> Draw:
    """A function that draws tasks: `ways` of the classes in random order, or all in theirs."""
    labels = np.asarray(examples.column("labels"))
    columns = {name: np.asarray(column) for name, column in examples.columns.items() if name != "labels"}
    places = {one: np.flatnonzero(labels == one) for one in classes}

    def draw(generator):
        chosen = generator.permutation(classes)[:ways] if shuffled else classes
        rows = [generator.choice(places[one], shots + queries, replace=False) for one in chosen]
        parts = {"support": [row[:shots] for row in rows], "query": [row[shots:] for row in rows]}
        ids = np.arange(ways, dtype=np.int32)
        return {
            part: {
                **{name: column[np.concatenate(taken)] for name, column in columns.items()},
                "labels": np.repeat(ids, len(taken[0])),
            }
            for part, taken in parts.items()
        }

    return draw


@dataclasses.dataclass(frozen=True)
class Sinusoids:
    """``amplitude · sin(x - phase)`` of a number x, the regression of the MAML paper (section 5.1).

    A task has an amplitude uniform in [0.1, 5], a phase in [0, π] and x in [-5, 5]. For a network of one pixel:
    ``Perceptron(image=(1, 1, 1), classes=1)`` with a loss of `ft_jax.core.targets.squared_error`.

    Attributes:
      shots: support examples of a task.
      queries: query examples.
      episodes: how many fixed tasks the evaluation has.
    """

    shots: int = 10
    queries: int = 10
    episodes: int = 100

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, the episodes; a batch has ``feed.batch_size`` of them."""
        source = EpisodeSource(self.draw, feed.batch_size, feed.seed, feed.process, feed.processes)
        return (Task("sinusoids", source, {"curves": held_out_batches(self.draw, self.episodes, feed.batch_size)}),)

    def draw(self, generator: np.random.Generator) -> dict[str, Batch]:
        """One task."""
        amplitude, phase = generator.uniform(0.1, 5.0), generator.uniform(0.0, np.pi)

        def part(count):
            x = generator.uniform(-5.0, 5.0, count).astype(np.float32)
            return {"images": x.reshape(-1, 1, 1, 1), "labels": (amplitude * np.sin(x - phase)).astype(np.float32)}

        return {"support": part(self.shots), "query": part(self.queries)}


def query_accuracy(predictions, batch):
    """Share of query examples whose likeliest class is the label; predictions come task after task."""
    query = batch["query"]
    labels = query["labels"].reshape(-1)
    counts = query["weights"].reshape(-1) if "weights" in query else np.ones(labels.shape, np.float32)
    return ((predictions.argmax(-1) == labels) * counts).sum(), counts.sum()
