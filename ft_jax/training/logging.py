"""Metrics to ``metrics.jsonl``, TensorBoard and a progress line, written by a thread that training never waits for."""

import contextlib
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ft_jax.assets.cache import replacing
from ft_jax.training.clock import Rollouts
from ft_jax.training.run_folder import finite

HYPER_AT = "hyper_at"
"""The cause of numbers that change at a step, which happens after the step's checkpoint."""

WORTH_SAYING = 2.0
"""Seconds of a wait after which it is told."""


class Log:
    """The log of a run.

    Values may be arrays still being computed: the thread waits for them.

    Args:
      folder: the run's, or None in processes that leave writing to the first.
      total: steps of the whole run, for the time left; of a stream that is drawn as it goes those of its tasks so far.
      start: the step a resumed run goes on from; lines past it, which the killed run wrote, are dropped.
      quiet: no progress line.
    """

    def __init__(self, folder: Path | None, total: int, start: int = 0, quiet: bool = False):
        self._total, self._rate = total, ""
        self._previous: tuple[float, float, float] | None = None
        self._failure: BaseException | None = None
        self._file = self._board = None
        if folder is not None:
            path = folder / "metrics.jsonl"
            damaged = cut_lines(path, start)
            self._file = path.open("a", encoding="utf-8")
            self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self._console = Console(stderr=True, quiet=quiet or folder is None, highlight=False)
        self._progress = self._task = None
        if self._console.is_terminal and not self._console.quiet:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("training", total=total, completed=start, told="")
            self._progress.start()
        self._queue: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()
        if folder is not None and damaged:
            self.event(start, "repair", f"metrics.jsonl had {damaged} damaged lines, which are dropped")

    def reach(self, total: int) -> None:
        """More steps, as another task of a stream has come."""
        self._total = total
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    def train(
        self,
        step: int,
        metrics: Mapping[str, Any],
        seconds: Callable[[], float],
        examples: int,
        tokens: int,
        rollouts: Rollouts | None = None,
    ) -> None:
        """A training step's metrics, with the `examples` and `tokens` of all training so far.

        `seconds` gives those of all training, and is read once the metrics are there; of them `rollouts` took its part.
        """
        self._queue.put(("train", step, metrics, (seconds, examples, tokens, step, rollouts)))

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Says what is waited for and for how long, and afterwards how long it took where that was long.

        On a terminal the line counts the seconds; elsewhere one line says it once the wait is long.
        """
        begin, over = time.perf_counter(), threading.Event()

        def count():
            told = False
            while not over.wait(0.5):
                seconds = time.perf_counter() - begin
                if self._progress is not None:
                    self._progress.update(self._task, told=f"{what}, {seconds:.0f} s")
                elif seconds > WORTH_SAYING and not told:
                    told = True
                    self._console.print(f"{what} …", soft_wrap=True)

        if self._progress is not None:
            self._progress.update(self._task, told=what)
        counting = threading.Thread(target=count, name="waiting", daemon=True)
        counting.start()
        try:
            yield
        finally:
            over.set()
            counting.join()
        seconds = time.perf_counter() - begin
        if seconds > WORTH_SAYING:
            self._console.print(f"{what}: {seconds:.1f} s", soft_wrap=True)

    def evaluation(self, step: int, phase: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Scores by evaluation set and metric."""
        self._queue.put(("evaluation", step, phase, scores))

    def event(self, step: int, cause: str, message: str, **values: Any) -> None:
        """Something that happened, and why."""
        self._queue.put(("event", step, cause, {"message": message, **values}))

    def flush(self) -> None:
        """Until everything told so far is on disk, so that no checkpoint is ahead of its log."""
        self._queue.join()
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._raise()

    def close(self) -> None:
        """Flushes and ends the thread."""
        self._queue.put(None)
        self._thread.join()
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._board.close()
            self._file.close()
        self._raise()

    def _raise(self):
        if self._failure is not None:
            raise OSError(f"the log can't be written: {self._failure}") from self._failure

    def _work(self):
        while True:
            item = self._queue.get()
            try:
                if item is None:
                    return
                if self._failure is None:
                    getattr(self, f"_{item[0]}")(*item[1:])
            except BaseException as failure:  # reported by flush and close, on the main thread
                self._failure = failure
            finally:
                self._queue.task_done()

    def _line(self, kind, step, values):
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **finite(values)}) + "\n")
        self._file.flush()

    def _scalar(self, name, value, step):
        mean = float(np.mean(np.asarray(value, np.float64)))
        if self._board is not None and math.isfinite(mean):
            self._board.add_scalar(name, mean, step)

    def _train(self, step, metrics, seen):
        metrics = {name: np.asarray(value, np.float64) for name, value in jax.device_get(dict(metrics)).items()}
        seen = (seen[0](), *seen[1:])
        values = {**metrics, **self._rates(seen), **memory(), "seconds": round(seen[0], 3)}
        self._line("train", step, values)
        for name, value in values.items():
            self._scalar(f"train/{name}", value, step)
        loss = float(np.mean(metrics["loss"]))
        if self._progress is not None:
            self._progress.update(self._task, completed=step, told=f"loss {loss:.4f}  {self._rate}")
        elif step >= self._total or (step * 10) // self._total != ((step - 1) * 10) // self._total:
            self._console.print(f"step {step} of {self._total}  loss {loss:.4f}  {self._rate}".rstrip(), soft_wrap=True)

    def _rates(self, seen):
        previous, self._previous = self._previous, seen
        if previous is None or seen[0] <= previous[0]:
            return {}
        seconds = seen[0] - previous[0]
        rates = {"examples_per_second": (seen[1] - previous[1]) / seconds}
        if seen[2]:
            rates["tokens_per_second"] = (seen[2] - previous[2]) / seconds
        name, rate = list(rates.items())[-1]
        rates |= _apart(previous, seen)
        self._rate = f"{rate:,.0f} {name.partition('_')[0]}/s"
        return rates

    def _evaluation(self, step, phase, scores):
        told = []
        for name, metrics in scores.items():
            self._line("evaluation", step, {"phase": phase, "set": name, **metrics})
            for metric, value in metrics.items():
                self._scalar(f"evaluation/{name}/{metric}", value, step)
            # A loss of one term is told once.
            shown = {m: _told(value) for m, value in metrics.items() if m == "loss" or value != metrics.get("loss")}
            told.append(f"{name}: " + ", ".join(f"{metric} {value}" for metric, value in shown.items()))
        self._console.print(f"[bold]{phase}[/bold], step {step}  " + "; ".join(told), soft_wrap=True)

    def _event(self, step, cause, values):
        self._line("event", step, {"cause": cause, **values})
        if self._board is not None:
            self._board.add_text(f"event/{cause}", values["message"], step)
        self._console.print(f"step {step}: {values['message']} ({cause})", soft_wrap=True)


def _apart(previous, seen) -> dict[str, float]:
    """Seconds of an update and of the rollouts for it, where batches are made on policy beside the step.

    Where they are made while the devices compute, an update's seconds are those from one to the next.
    """
    (*_, step, then), (*_, now_step, now) = previous, seen
    if then is None or now is None or now.seconds < then.seconds or now_step <= step:
        return {}
    rollout = (now.seconds - then.seconds) / (now_step - step)
    whole = (seen[0] - previous[0]) / (now_step - step)
    return {"rollout_seconds": rollout, "update_seconds": whole if now.beside else max(whole - rollout, 0.0)}


def memory() -> dict[str, float]:
    """The most memory that this process's fullest device has held, in GiB; nothing where a device doesn't say."""
    held = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return {"memory_gib": max(held) / 2**30} if max(held) else {}


def _told(value) -> str:
    values = np.atleast_1d(np.asarray(value, np.float64))
    if values.size == 1:
        return f"{values[0]:.4g}"
    return f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}" if np.isfinite(values).any() else f"{math.nan}"


def cut_lines(path: Path, step: int) -> int:
    """Drops the lines of ``metrics.jsonl`` past `step`, a last one that was cut off and any that are damaged.

    A line past the checkpoint is written again by the steps that are made again, so none is there twice.

    Returns:
      How many lines were damaged, without the last.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")
    read = [_step_of(line) for line in lines[:-1]]
    kept = [line for line, at in zip(lines, read, strict=False) if at is not None and at <= step]
    with replacing(path) as file:
        file.write(b"".join(line + b"\n" for line in kept))
    return read.count(None)


def _step_of(line: bytes) -> int | None:
    try:
        told = json.loads(line)
        step = told["step"]
        if told.get("cause") == HYPER_AT and type(step) is int:
            return step + 1  # it comes again where the run goes on from this step
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if type(step) is int else None
