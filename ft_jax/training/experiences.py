"""Data specs of experiences: one data set cut by class, domain, task or time, and a live source."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from ft_jax import data
from ft_jax.data.description import summary
from ft_jax.data.experiences import in_order_of_arrival, time_edges
from ft_jax.outside import printable
from ft_jax.training.online.lines import record_of
from ft_jax.training.specs import check_targets, classes_of, share
from ft_jax.training.stream import Feed, Stream, Task

CLASS, TIME = "class", "time"


@dataclasses.dataclass(frozen=True)
class Experiences:
    """One data set as experiences that arrive one after another, each with an evaluation set of its own.

    Attributes:
      address: a data set with ``labels`` and ``text`` or ``images``, see `ft_jax.data.load`.
      by: ``"class"`` for class-incremental experiences, ``"time"`` for those cut out of an order, or the name of a
        column each of whose values is a domain or task.
      groups: of classes, the ids or names of each experience's; of time, the edges between experiences.
      parts: how many experiences there are, where `groups` is empty: classes or examples are dealt out evenly.
      column: by time, the column with the times.
      online: every experience is seen once, in the data's order, the last batch filled up; else a task goes through its
        examples again and again, as long as the budget says.
      index: batches have a field ``index``, the place of each example in its experience.
      length, too_long: of texts, see `ft_jax.training.specs.Texts`.
      split: the split that evaluation reads.
      heads: ``"grow"`` for a head that has the classes which have come, numbered in that order, and grows at the start
        of each experience with new ones: weights, moments and memories of the others stay, and each size is compiled
        once. A set is then measured from its experience on. None for a head that has all classes from the start.
    """

    address: str
    by: str = CLASS
    groups: tuple[Any, ...] = ()
    parts: int | None = None
    column: str | None = None
    online: bool = False
    index: bool = False
    length: int = 64
    too_long: str = "truncate"
    split: str = "test"
    heads: Literal["grow"] | None = None

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong before the data is read."""
        if self.heads not in (None, "grow"):
            raise ValueError(
                f"data.heads is {printable(self.heads)}; use 'grow', or leave it out for all classes at once"
            )
        if not self.groups and self.parts is None and self.by in (CLASS, TIME):
            raise ValueError(
                f"data.by is {self.by!r}, which says nothing of how many experiences; give groups or parts"
            )
        if self.by == TIME and self.column is None:
            raise ValueError("data.by is 'time'; name the column with the times, data.column")

    def cut(self, sets: Mapping[str, data.Dataset]) -> dict[str, dict[str, data.Dataset]]:
        """The examples of every experience by split; all splits are cut where the training examples are.

        Raises:
          ValueError: an experience without an example in one of the splits.
        """
        train = sets["train"]
        if self.by == CLASS:
            groups = self.groups or _groups(train, self.parts)
            found = {split: data.by_class(examples, groups) for split, examples in sets.items()}
        elif self.by == TIME:
            edges = self.groups or tuple(time_edges(train.column(self.column), self.parts, self.column))
            found = {split: data.by_time(examples, self.column, edges) for split, examples in sets.items()}
        else:
            found = {split: data.by_value(examples, self.by) for split, examples in sets.items()}
        for split, parts in found.items():
            missing = [name for name in found["train"] if name not in parts]
            if missing:
                raise ValueError(
                    f"the split {split!r} of {self.address} has no example of the experience {missing[0]!r}; take "
                    "another split, or leave the experience out"
                )
        return {name: {split: parts[name] for split, parts in found.items()} for name in found["train"]}

    def outputs(self) -> int:
        """How many outputs a head for it needs; one that grows, for its first experience."""
        sets = data.one_mapping(self._sets())
        if self.heads is not None:
            return len(next(iter(in_order_of_arrival(self.cut(sets)).classes.values())))
        train = sets["train"]
        return len(train.classes) or 1 + int(np.max(np.asarray(train.column("labels"))))

    def build(self, model: Any, feed: Feed) -> Stream | Iterator[Task]:
        """A task for each experience; after each of them all evaluation sets are measured.

        Where the head grows they come one after another, each with the sets of those up to it.
        """
        if self.heads is not None:
            return self._growing(model, feed)
        numbered = data.one_mapping(self._sets(), getattr(model, "classes", ()), classes_of(model))
        numbered = {split: check_targets(examples, model) for split, examples in numbered.items()}
        shape = self._shape(numbered["train"], model)
        parts = self.cut(numbered)
        evaluations = {
            name: data.evaluation_batches(self._fields(part[self.split], model), feed.batch_size, **shape)
            for name, part in parts.items()
        }
        return tuple(self._task(name, part["train"], evaluations, model, feed, shape) for name, part in parts.items())

    def _growing(self, model, feed):
        arrivals = in_order_of_arrival(self.cut(data.one_mapping(self._sets())))
        first, classes = next(iter(arrivals.classes.items()))
        if len(classes) < 2:
            raise ValueError(
                f"the experience {printable(first)} is the first and has one class, {printable(classes[0])}, which a "
                "head has nothing to tell from; give it two"
            )

        def tasks():
            for name, part in arrivals.parts.items():
                shape = self._shape(part["train"], model)
                own = data.evaluation_batches(self._fields(part[self.split], model), feed.batch_size, **shape)
                task = self._task(name, part["train"], {name: own}, model, feed, shape)
                yield dataclasses.replace(task, outputs=len(task.classes))

        return tasks()

    def _sets(self):
        return {split: data.load(self.address, split) for split in ("train", self.split)}

    def _shape(self, examples, model):
        return {} if "text" not in examples.columns else {"length": self.length, "padding": model.pad_token}

    def _task(self, name, train, evaluations, model, feed, shape):
        fields = self._fields(train, model)
        once = data.evaluation_batches(fields, feed.batch_size, index=self.index, **shape)
        order = {"epochs": 1, "shuffle": False, "remainder": "pad"} if self.online else {}
        source = data.batches(
            fields, feed.batch_size, seed=feed.seed, index=self.index, **order, **shape, **share(feed)
        )
        return Task(
            name,
            source,
            evaluations,
            len(train),
            steps=source.steps,
            once=once,
            ends=self.online,
            classes=train.classes,
            columns=summary(train),
        )

    def _fields(self, examples, model):
        if "text" not in examples.columns:
            return examples.select(*(name for name in ("images", "labels") if name in examples.columns))
        texts = examples.select("text", "labels")
        return data.tokenize(texts, model.tokenizer, length=self.length, too_long=self.too_long)


def _groups(train, parts):
    present = sorted(set(np.asarray(train.column("labels")).tolist()))
    return [group.tolist() for group in np.array_split(present, parts)] if parts <= len(present) else parts


@dataclasses.dataclass(frozen=True)
class Live:
    """Labelled examples that are written while the run goes on, one JSON object a line, followed until it is stopped.

    A batch is trained on as soon as it is full. The run ends as a run does that is interrupted, and the same command
    goes on after the last line that it was trained on; or, with `end`, when everything that is there was read.

    Attributes:
      path: a file that grows, a folder of files that follow one another by name, or ``"-"`` for standard input.
      classes: the names of the classes, in the order of their ids; empty where labels are ids.
      end: the run's task ends where the source is read to its end.
      length, too_long: of texts.
    """

    path: str
    classes: tuple[str, ...] = ()
    end: bool = False
    length: int = 64
    too_long: str = "truncate"

    def outputs(self) -> int:
        """How many outputs a head for it needs."""
        if not self.classes:
            raise ValueError("a live source does not say how many classes will come; name them with data.classes")
        return len(self.classes)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, whose batches come as their lines do."""
        if feed.processes > 1:
            raise ValueError("a live source is read by one process; run it in one")
        if self.path == "-":
            raise ValueError("a run reads its first batch twice, which standard input can't; use ft-jax stream")
        return (Task("live", LiveBatches(self, model, feed.batch_size), ends=True, classes=self.classes),)

    def example(self, text: str, where: str) -> dict[str, Any]:
        """A line as an example.

        Raises:
          ValueError: it is no JSON object with a text (or an image) and a label that is known.
        """
        try:
            record = record_of(text, self.classes)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        if record.label is None:
            raise ValueError(f"{where}: {record.trouble or 'it has no label'}; correct or drop it")
        return {**record.inputs, "labels": record.label}


def _kind(row: Mapping[str, Any]) -> str:
    return f"images of shape {np.shape(row['images'])}" if "images" in row else "texts"


class LiveBatches:
    """The batches of a `Live` source; its place is that of the last line in them."""

    def __init__(self, spec: Live, model: Any, size: int):
        self._spec, self._model, self._size, self._place = spec, model, size, None
        self._stopped = threading.Event()

    def __next__(self) -> dict[str, np.ndarray]:
        """Waits until a batch is full."""
        rows, place = [], self._place
        for line in data.follow(self._spec.path, place, stop=self._stopped.is_set, end=self._spec.end):
            place = line.place
            if line.text.strip():
                rows.append(self._spec.example(line.text, f"{self._spec.path} before {line.place}"))
            if len(rows) == self._size:
                self._place = place
                return self._batch(rows)
        raise StopIteration

    def _batch(self, rows):
        labels = np.asarray([row["labels"] for row in rows], np.int32)
        kinds = list(dict.fromkeys(_kind(row) for row in rows))
        if len(kinds) > 1:
            raise ValueError(
                f"{self._spec.path} has {kinds[0]} and {kinds[1]} in the lines before {self._place}; write one kind"
            )
        if "images" in rows[0]:
            return {"images": np.asarray([row["images"] for row in rows], np.float32), "labels": labels}
        texts = data.Dataset({"text": [row["text"] for row in rows], "labels": labels})
        length = self._spec.length
        tokens = data.tokenize(texts, self._model.tokenizer, length=length, too_long=self._spec.too_long)
        return data.collate([tokens[at] for at in range(len(rows))], length, self._model.pad_token)

    def stop(self) -> None:
        """Ends a wait for lines."""
        self._stopped.set()

    def get_state(self) -> Any:
        """The place after the last line of the batches given out."""
        return self._place

    def set_state(self, state: Any) -> None:
        """Goes on after a place."""
        self._place = state
