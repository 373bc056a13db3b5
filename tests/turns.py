"""Which of the long tests ``make test`` runs: those that changed, then a share that moves on by the day.

The suite has more to say than fits the minutes of one run. tests/seconds.json holds what took long, as ``make slow``
measured it; what stands there carries the marker ``long``. ``make test`` runs everything else, and of the long ones
first those whose file has changed since they were measured (of a law: whose method's sources have), then others in
turn until `SECONDS` are full. Some three weeks run them all; ``make slow`` runs them at once and measures anew. What is
marked ``always`` takes no turns.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

RECORD = Path(__file__).with_name("seconds.json")
LONG = 2.0
"""Seconds from which on a test is a long one; the laws of one method are one test."""
STORIES = ("tests/test_quickstart.py",)
"""Files whose tests take up what those before them left: all of them run, or none."""
SECONDS = 300.0
"""Of long tests in one run, over all its workers."""


@dataclasses.dataclass(frozen=True)
class Long:
    """A test that took long: for how many seconds, and a digest of what it was then."""

    seconds: float
    digest: str


def recorded(path: Path = RECORD) -> dict[str, Long]:
    """The long tests by name, as they were measured last."""
    if not path.exists():
        return {}
    return {name: Long(seconds, digest) for name, (seconds, digest) in json.loads(path.read_text()).items()}


def record(seconds: Mapping[str, float], digests: Mapping[str, str], path: Path = RECORD) -> None:
    """Writes down what was measured; tests that did not run keep their line while their file is there."""
    kept = {name: one for name, one in recorded(path).items() if name not in seconds and file_of(name).exists()}
    found = {name: Long(round(took, 1), digests[name]) for name, took in seconds.items() if took >= LONG}
    both = sorted({**kept, **found}.items())
    lines = [f"{json.dumps(name)}: {json.dumps([one.seconds, one.digest])}" for name, one in both]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def todays(long: Mapping[str, Long], digests: Mapping[str, str], day: int, budget: float = SECONDS) -> set[str]:
    """The long tests to run on a day.

    Args:
      long: as `recorded`.
      digests: of those that are there now.
      day: a running number.
      budget: seconds; what has changed is run even beyond it.
    """
    here = [name for name in long if name in digests]
    chosen = {name for name in here if digests[name] != long[name].digest}
    left = budget - sum(long[name].seconds for name in chosen)
    others = sorted(set(here) - chosen, key=lambda name: hashlib.sha256(name.encode()).digest())
    whole = sum(long[name].seconds for name in others)
    if not others or left <= 0:
        return chosen
    # Days are windows of equal length on a ring of all long tests: no test waits longer than the ring takes.
    begin, position = day * budget % whole, 0.0
    behind = []
    for name in others:
        behind.append(((position - begin) % whole, name))
        position += long[name].seconds
    for _, name in sorted(behind):
        if left <= 0:
            break
        chosen.add(name)
        left -= long[name].seconds
    return chosen


def unit(nodeid: str) -> str:
    """What is measured and run together: a test, all laws of one method, or a file whose tests stand on one another.

    Example:
      >>> unit("tests/laws/test_laws.py::test_a_step_is_pure[rl.dpo]"), unit("tests/core/test_step.py::test_a[1]")
      ('tests/laws/test_laws.py[rl.dpo]', 'tests/core/test_step.py::test_a[1]')
    """
    file, _, test = nodeid.partition("::")
    if file in STORIES:
        return file
    if file.endswith("laws/test_laws.py") and "[" in test:
        return file + test[test.index("[") :]
    return nodeid


def file_of(name: str) -> Path:
    """The file of a unit."""
    return RECORD.parents[1] / name.split("::")[0].split("[")[0]


def digests_of(units: Iterable[str]) -> dict[str, str]:
    """What each unit is now: a digest of its file, or of the sources of the method whose laws it asks."""
    return {name: _method(name) or _bytes(file_of(name)) for name in units}


def _method(name: str) -> str | None:
    from ft_jax.testing import pairs

    file, _, rest = name.partition("[")
    return _methods(pairs).get(rest[:-1]) if file.endswith("laws/test_laws.py") else None


@functools.cache
def _methods(pairs) -> dict[str, str]:
    return pairs.digests()


@functools.cache
def _bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
