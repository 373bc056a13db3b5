"""A profiler's trace of some steps, and the operations that took longest."""

import collections
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

HOST = re.compile(r"^\$|^(ThunkExecutor|PjitFunction|PjRt|TfrtCpu|Slinky|Thread|Wait|Execute|Parse|Copy|Linearize)|::")
"""Events of the host's own work."""


def slowest(run: Callable[[], object], folder: str, count: int = 10, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """The `count` operations with the most time in `repeats` calls of `run`.

    The trace stays in `folder`, to open in Perfetto (the ``.trace.json.gz``) or with xprof
    (``pip install xprof; xprof FOLDER``).

    Yields:
      ``operation`` (XLA's name), ``milliseconds`` of one call, ``share`` of all operations' time and ``calls``.
    """
    with jax.profiler.trace(folder):
        for _ in range(repeats):
            run()
    file = max(Path(folder).rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(file) as opened:
        events = json.load(opened)["traceEvents"]
    spent, calls = operations(events)
    total = sum(spent.values())
    for name, taken in spent.most_common(count):
        yield {
            "operation": name,
            "milliseconds": taken / repeats / 1e3,
            "share": taken / total,
            "calls": calls[name] // repeats,
        }


def operations(events: list[dict[str, Any]]) -> tuple[collections.Counter, collections.Counter]:
    """Microseconds and calls of the device's operations in a trace's events, by name.

    On a GPU or TPU every event says its operation of the compiled program; on a CPU the event is called so.
    """
    spent, calls = collections.Counter(), collections.Counter()
    known = any("hlo_op" in event.get("args", {}) for event in events)
    for event in events:
        if event.get("ph") != "X":
            continue
        name = event.get("args", {}).get("hlo_op") if known else event["name"]
        if name is None or HOST.search(name) or " " in name:
            continue
        spent[name] += event["dur"]
        calls[name] += 1
    return spent, calls
