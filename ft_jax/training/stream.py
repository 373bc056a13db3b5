"""Tasks in turn, and a prefetching feed whose place in the data can be saved."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from ft_jax.data.streams import unmoved
from ft_jax.outside import check_name, listed, printable
from ft_jax.training.clock import Rollouts
from ft_jax.training.loop.sizes import joined
from ft_jax.training.on_policy import Actor, OnPolicy

Batch = Mapping[str, Any]


@runtime_checkable
class Source(Protocol):
    """An endless iterator of host batches that can say and take its place in the data.

    `get_state` gives something JSON can hold; after ``set_state(get_state())`` the same batches follow.
    """

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Feed:
    """The batches a run asks its data for.

    Attributes:
      batch_size: examples per batch of this process.
      seed: of the data's order.
      process, processes: this process's share is the examples ``process, process + processes, ...``.
    """

    batch_size: int
    seed: int = 0
    process: int = 0
    processes: int = 1


@dataclasses.dataclass(frozen=True)
class Task:
    """One task, domain or experience.

    Attributes:
      name: for logs and the report.
      train: a `Source`, or an `OnPolicy` whose batches the policy in training makes.
      evaluations: evaluation sets by name, each a finite iterable of host batches that can be read again.
        Every process is given all of them.
      examples: how many training examples there are, for budgets in epochs.
      steps: updates on this task in place of the budget's.
      once: one pass over its training examples: each exactly once, in the data's order, rows that fill the last batch
        of weight 0, such as `ft_jax.data.evaluation_batches` gives. Methods that are ``aligned`` need it.
      ends: whether the source may end, which ends the task: a stream seen once, or a live one that is told to stop.
      classes: names of the class ids in its labels; all tasks of a run have the same, or none. Where the head grows,
        each task has those of the task before and its own after them.
      outputs: that the head has from this task on, where it grows with the classes that come; None leaves it as it is.
      columns: what was understood of its data's columns, for dry runs.
      notes: what a person should know of its data before the run, in sentences, such as what was left out.
    """

    name: str
    train: Source | OnPolicy
    evaluations: Mapping[str, Iterable[Batch]] = dataclasses.field(default_factory=dict)
    examples: int | None = None
    steps: int | None = None
    once: Iterable[Batch] | None = None
    ends: bool = False
    classes: tuple[str, ...] = ()
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outputs: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def on_policy(self) -> bool:
        """Whether a batch depends on the train state."""
        return isinstance(self.train, OnPolicy)


Stream = tuple[Task, ...]


def opened(stream: Any) -> tuple[Stream, Iterator[Task] | None]:
    """What a data spec built, as tasks that are there and an iterator of those that are to come, or None.

    Of an iterator, which may be without end, only the first task is drawn; and so of tasks with which a head grows.

    Raises:
      ValueError: an iterator without a task, and what `check_stream` refuses.
    """
    if not isinstance(stream, Iterator):
        tasks = check_stream(stream)
        return (tasks, None) if outputs_of(tasks) is None else (tasks[:1], iter(tasks[1:]))
    first = next(stream, None)
    return check_stream(() if first is None else first), stream


def check_stream(stream: Any) -> Stream:
    """A stream with its tasks checked; a single task is a stream of one.

    Raises:
      ValueError: no task, one name twice or one that deceives, a task that gives no batches, two that number their
        classes differently, a head that would shrink.
    """
    stream = (stream,) if isinstance(stream, Task) else tuple(stream)
    if not stream:
        raise ValueError("the data has no task; give at least one ft_jax.training.Task")
    names = [task.name for task in stream]
    for task in stream:
        check_name("task", task.name)
        for name in task.evaluations:
            check_name(f"task {printable(task.name)} has an evaluation set which", name)
        if names.count(task.name) > 1:
            raise ValueError(f"the data has two tasks called {printable(task.name)}; rename one")
        if not isinstance(task.train, Source | OnPolicy):
            raise ValueError(
                f"task {printable(task.name)} trains on a {type(task.train).__name__}; give an iterator with get_state "
                "and set_state, or an ft_jax.training.OnPolicy"
            )
    classes_of(stream)
    outputs_of(stream)
    return stream


def outputs_of(stream: Stream) -> int | None:
    """The outputs that a growing head has after a stream's tasks; None where it stays as it is.

    Raises:
      ValueError: a task whose head has fewer than one before, or another number than its classes have names.
    """
    most = None
    for task in stream:
        if task.outputs is None:
            continue
        if most is not None and task.outputs < most:
            raise ValueError(
                f"task {printable(task.name)} has a head of {task.outputs} outputs after one of {most}; a head that "
                "grows keeps the classes that came before, so count them as well"
            )
        if task.classes and len(task.classes) != task.outputs:
            raise ValueError(
                f"task {printable(task.name)} names {len(task.classes)} classes for {task.outputs} outputs of a head "
                "that grows; name every class that has come, in the order of their ids"
            )
        most = task.outputs
    return most


def classes_of(stream: Stream) -> tuple[str, ...]:
    """The names of a stream's classes, empty where it has none; of a head that grows those that have come.

    Raises:
      ValueError: two tasks number their classes differently.
    """
    named = {task.name: tuple(task.classes) for task in stream if task.classes}
    grows = any(task.outputs is not None for task in stream)
    first = max(named, key=lambda task: len(named[task])) if grows and named else next(iter(named), None)
    for task, classes in named.items():
        if classes != (named[first][: len(classes)] if grows else named[first]):
            raise ValueError(
                f"task {printable(first)} numbers its classes {listed(named[first])} and task {printable(task)} "
                f"{listed(classes)}; give both one numbering, such as ft_jax.data.one_mapping makes"
            )
    return named.get(first, ())


def first_batch(task: Task) -> Batch:
    """The first batch of a task, whose place in the data stays where it was; of an on-policy one what it is like.

    Raises:
      ValueError: the task has none.
    """
    if isinstance(task.train, OnPolicy):
        return task.train.like
    with unmoved(task.train):
        return next_batch(task)


def check_batch(batch: Any, where: str) -> None:
    """Raises ValueError, in one sentence, on a batch that is empty, ragged or not finite."""
    if not isinstance(batch, Mapping) or not jax.tree.leaves(batch):
        raise ValueError(
            f"{where} gives {type(batch).__name__} {printable(batch, 60)}; a batch is a dict of arrays by field"
        )
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name, array = jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)
        if array.ndim == 0:
            raise ValueError(
                f"{where} has a field {printable(name)} without an example axis; give it shape [batch, ...]"
            )
        if array.dtype == object or array.dtype.kind in "US":
            raise ValueError(f"{where} has a field {printable(name)} of type {array.dtype}; turn it into numbers first")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"{where} has a value in field {printable(name)} that is not finite; clean or drop its example"
            )
        sizes.setdefault(array.shape[0], name)
    if 0 in sizes:
        raise ValueError(f"{where} has an empty field {printable(sizes[0])}; give it at least one example")


def size(batch: Batch) -> int:
    """How many examples a batch holds: the length of its first field."""
    return int(np.shape(jax.tree.leaves(batch)[0])[0])


def tokens(batch: Batch) -> int | None:
    """How many real tokens a host batch holds, or None where it has none."""
    if "input_ids" not in batch:
        inner = [tokens(child) for child in batch.values() if isinstance(child, Mapping)]
        counted = [one for one in inner if one is not None]
        return sum(counted) if counted else None
    for field in ("attention_mask", "segment_ids"):
        if field in batch:
            return int(np.count_nonzero(np.asarray(batch[field])))
    return int(np.size(batch["input_ids"]))


def next_batch(task: Task) -> Batch:
    """The next host batch of a task that is not on-policy."""
    try:
        return next(task.train)
    except StopIteration:
        raise ValueError(
            f"task {printable(task.name)} ran out of batches; its source must repeat the data without end"
        ) from None


@dataclasses.dataclass(frozen=True)
class Fed:
    """A batch on the devices and on the host, what is known of it, and the place in the data after it.

    The place is in JSON, or a `Place` that is told when it is saved.
    """

    batch: Any
    host: Batch
    examples: int
    tokens: int | None
    place: Any


WAIT = 0.2
"""Seconds between two looks at whether a run that waits for data was told to stop."""


class Feeder:
    """Batches of a task, made, checked and moved to the devices ahead of their turn.

    A thread stays up to `ahead` batches in front. Each batch comes with the source's place right after it,
    so the place that a checkpoint saves is that of what was trained on and not of what was prefetched.
    """

    def __init__(
        self,
        task: Task,
        put: Callable[[Batch], Any],
        place: Any = None,
        ask: Callable[[OnPolicy], Callable[[Any, Batch], Any]] | None = None,
        batches: int = 1,
        padding: int = 0,
        ahead: int = 2,
    ):
        """Starts making them.

        Args:
          task: whose batches they are.
          put: checks a host batch and moves it to the devices.
          place: to begin at, where it was saved; where the source stands otherwise.
          ask: gives an on-policy task's ``(state, batch) -> arrays``, see `Actor`.
          batches: of the source in each that it gives, see `take_together`.
          padding: id of the padding token, where batches of several lengths come together.
          ahead: how many to make ahead.
        """
        self._task, self._put = task, put
        self._actor = Actor(task.train, task.name, ask(task.train)) if task.on_policy else None
        if place is not None:
            self._actor.resume(place) if self._actor else task.train.set_state(place)
        self._queue: queue.Queue = queue.Queue(maxsize=ahead)
        self._ended = False
        self._batches, self._padding = batches, padding
        self._stop = threading.Event()
        self._thread = None
        if not task.on_policy:
            self._begin = task.train.get_state()
            self._start()

    def _start(self):
        self._thread = threading.Thread(target=self._work, name=f"feed {self._task.name}", daemon=True)
        self._thread.start()

    def take_together(self, batches: int, place: Any) -> bool:
        """From a place on (None for the beginning), so many batches of the source as one; whether that is a change.

        Batches that were made ahead are dropped, and the source goes back to the place.
        """
        if batches == self._batches:
            return False
        self._end()
        self._task.train.set_state(self._begin if place is None else place)
        self._batches, self._stop = batches, threading.Event()
        self._start()
        return True

    @property
    def rollouts(self) -> Rollouts | None:
        """What an on-policy task's batches have taken so far; None of another task."""
        return None if self._actor is None else Rollouts(self._actor.seconds, self._task.train.ahead)

    def take(self, state: Callable[[], Any], stop: Callable[[], bool] = lambda: False) -> Fed | None:
        """The next batch; an on-policy one is made by ``state()``, which is on the devices.

        None where the source has ended, or where ``stop()`` holds before a live one has anything new.
        """
        if self._actor is not None:
            return self._make(*self._actor.take(state()))
        item = self._wait(stop)
        if isinstance(item, BaseException):
            raise item
        return item

    def _wait(self, stop):
        while not self._ended:
            try:
                item = self._queue.get(timeout=WAIT)
            except queue.Empty:
                if stop():
                    return None
                continue
            self._ended = item is None
            return item
        return None

    def close(self) -> None:
        """Ends the thread; batches made ahead are dropped."""
        if self._actor is not None:
            self._actor.close()
        if hasattr(self._task.train, "stop"):
            self._task.train.stop()
        self._end()

    def _end(self):
        self._stop.set()
        if self._thread is not None:
            while self._thread.is_alive():
                self._drain()
                self._thread.join(timeout=0.05)
        self._drain()

    def __enter__(self) -> "Feeder":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _drain(self):
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            return

    def _make(self, batch, place) -> Fed:
        return Fed(self._put(batch), batch, size(batch), tokens(batch), place)

    def _work(self):
        while not self._stop.is_set():
            try:
                if self._batches > 1:
                    batch = joined([next_batch(self._task) for _ in range(self._batches)], self._padding)
                else:
                    batch = next(self._task.train, None) if self._task.ends else next_batch(self._task)
                if batch is None:
                    self._queue.put(None)
                    return
                self._queue.put(self._make(batch, self._task.train.get_state()))
            except BaseException as error:
                self._queue.put(error)
                return


def stack(batches: Iterator[Batch]) -> Batch:
    """Host batches of one shape as one, fields ``[count, batch, ...]``."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *batches)
