"""The loop of a model that answers while it learns, and what of it is on disk."""

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from ft_jax.data.live import Line
from ft_jax.outside import check_name, printable
from ft_jax.training.checkpoint import Checkpoints
from ft_jax.training.online.journal import Entry, Journal
from ft_jax.training.online.learner import Learner
from ft_jax.training.online.lines import Record, record_of
from ft_jax.training.run_folder import RunRefused, first_difference, read_sealed, write_sealed

ABOUT = "stream.json"


@dataclasses.dataclass(frozen=True)
class Served:
    """How a stream went.

    Attributes:
      lines, learned: how many there were in all, those of earlier calls with them.
      right: of the labelled ones, how many had been answered rightly before they were learned from.
      answers: seconds from taking each line of this call to its answer having been written.
      examples: seconds from taking each labelled line of this call to its having been learned from.
    """

    lines: int
    learned: int
    right: int
    answers: np.ndarray
    examples: np.ndarray

    def __str__(self):
        told = [f"{self.lines} lines, learned from {self.learned}"]
        if self.learned:
            told.append(f"{self.right / self.learned:.3f} of them answered rightly before")
        for name, seconds in (("an answer", self.answers), ("a learned example", self.examples)):
            if len(seconds):
                middle, slow = 1000 * np.percentile(seconds, [50, 99])
                told.append(f"{name} took {middle:.1f} ms (median), {slow:.1f} ms (99th percentile)")
        return "; ".join(told)


class Stand:
    """Where a stream stands on disk: checkpoints made in the background, and a journal of what came after.

    Args:
      folder: of the stream.
      about: what it is a stream of; a folder that holds another is refused.
      learner: whose state is restored, and brought by the journal to where it was.
      names: of the composition.
      every: examples learned between two checkpoints.

    Attributes:
      place: after the last line that was dealt with.
      number, right: of lines, and of right answers.
    """

    def __init__(self, folder: Path, about: dict[str, Any], learner: Learner, names: tuple[str, ...], every: int):
        check_name("the stream's folder", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunRefused(f"{folder} is in use by another process; stop it, or choose another with --out") from None
        self._check(folder, about)
        self._learner, self._every = learner, every
        self._checkpoints = Checkpoints(folder / "checkpoints", names, learner.state, keep=2)
        self._journal = Journal(folder / "journal")
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.place, self.number, self.right, self.replayed = None, 0, 0, 0
        self._restore()

    def _check(self, folder, about):
        file = folder / ABOUT
        if not file.exists():
            write_sealed(file, about)
            return
        difference = first_difference(read_sealed(file), about)
        if difference:
            field, was, now = difference
            raise RunRefused(
                f"{folder} holds another stream, whose {field} is {printable(was, 60)} and not {printable(now, 60)}; "
                "choose another with --out"
            )

    def _restore(self):
        frozen, begun = self._learner.state.frozen, 0
        if self._checkpoints.newest() is not None:
            state, record = self._checkpoints.restore()
            self._learner.state = state.replace(frozen=frozen)
            self.place, self.number, self.right = record["place"], record["number"], record["right"]
            begun = self._learner.learned
        for entry in self._journal.entries(begun):
            if entry.number <= self.number:
                continue
            if entry.label is not None:
                self._learner.learn(entry.inputs, entry.label)
                self.replayed += 1
            self.place, self.number, self.right = entry.place, entry.number, self.right + bool(entry.right)
        self._journal.begin(max([begun, *self._journal._begun()]))

    def note(self, place: Any, record: Record | None, right: bool | None) -> None:
        """Writes down a line before it is learned from."""
        learns = record is not None and record.label is not None
        self.place, self.number, self.right = place, self.number + 1, self.right + bool(right)
        learned = self._learner.learned + learns
        inputs, label = (record.inputs, record.label) if learns else (None, None)
        self._journal.append(Entry(self.number, place, learned, inputs, label, right))

    def saved(self) -> None:
        """Begins a checkpoint where it is time for one and none is being written; returns at once.

        Raises:
          NotSaved: one before could not be written.
        """
        if self._failure is not None:
            raise self._failure
        busy = self._writer is not None and self._writer.is_alive()
        if not busy and self._learner.learned % self._every == 0:
            self._begin()

    def _begin(self):
        learned, state = self._learner.learned, self._learner.copied()
        record = {"place": self.place, "number": self.number, "right": self.right}
        self._journal.begin(learned)
        self._writer = threading.Thread(target=self._write, args=(state, record), name="stream checkpoint")
        self._writer.start()

    def _write(self, state, record):
        try:
            self._checkpoints.save(state, record)
            self._checkpoints.wait()
            # An older checkpoint is kept for the case that this one is damaged, and what was learned since with it.
            oldest = min(self._checkpoints.kept(), default=0)
            self._journal.drop(oldest)
        except BaseException as failure:  # told at the next line
            self._failure = failure

    def close(self) -> None:
        """Writes the last checkpoint and lets others have the folder."""
        try:
            if self._writer is not None:
                self._writer.join()
            if self._failure is not None:
                raise self._failure
            if self._learner.learned and self._learner.learned != self._checkpoints.newest():
                self._begin()
                self._writer.join()
                if self._failure is not None:
                    raise self._failure
        finally:
            self._journal.close()
            self._checkpoints.close()
            self._lock.release()


class Told:
    """Lines of a log, written by a thread that no answer waits for."""

    def __init__(self, file: Path):
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._file = open(file, "a", encoding="utf-8")  # noqa: SIM115, closed by close
        self._thread = threading.Thread(target=self._work, name="stream log", daemon=True)
        self._thread.start()

    def line(self, **values: Any) -> None:
        """One JSON line, some time."""
        self._queue.put(values)

    def close(self) -> None:
        """Writes what is left."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _work(self):
        while (values := self._queue.get()) is not None:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()


def serve(
    learner: Learner,
    lines: Iterable[Line],
    stand: Stand,
    write: Callable[[str], None],
    log: Path,
    clock: Callable[[], float] = time.perf_counter,
) -> Served:
    """Answers every line, and learns from each that has a label, before the next one is taken.

    An answer is written before its line is learned from, a line is in the journal before it is learned from, and a
    checkpoint is made in the background of a copy. So a process killed at any moment goes on with the same bits; at
    most the line that it was at is answered twice.

    Args:
      learner: whose state moves on.
      lines: of `ft_jax.data.follow`, from ``stand.place``.
      stand: where it stands on disk.
      write: takes an answer, a JSON object without its line's end.
      log: the file of times and losses.
      clock: seconds.
    """
    answers, examples, told = [], [], Told(log)
    try:
        for line in lines:
            begin = clock()
            record, answer, right = _answered(learner, line.text, stand.number + 1)
            write(json.dumps(answer, ensure_ascii=False))
            answers.append(clock() - begin)
            loss = None
            stand.note(line.place, record, right)
            if record is not None and record.label is not None:
                loss = learner.learn(record.inputs, record.label)
                examples.append(clock() - begin)
                stand.saved()
            told.line(line=stand.number, seconds=answers[-1], right=right, loss=loss)
    finally:
        told.close()
    return Served(stand.number, learner.learned, stand.right, np.asarray(answers), np.asarray(examples))


def _answered(learner: Learner, text: str, number: int) -> tuple[Record | None, dict[str, Any], bool | None]:
    """A line's record (None where it is none), its answer, and whether that was its label."""
    try:
        record = record_of(text, learner.classes)
        found = learner.answer(record.inputs)
    except ValueError as error:
        return None, {"line": number, "error": f"line {number} {error}"}, None
    answer: dict[str, Any] = {"line": number} | ({} if record.known is None else {"id": record.known})
    rounded = {name: round(float(p), 6) for name, p in zip(learner.classes, found, strict=True)}
    answer |= {"label": learner.classes[int(found.argmax())], "probabilities": rounded}
    if record.trouble is not None:
        answer["error"] = f"line {number}: {record.trouble}"
    right = None if record.label is None else bool(int(found.argmax()) == record.label)
    return record, answer, right
