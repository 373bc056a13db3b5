"""Good files with something wrong, from a fixed seed: each is read as it was, or refused in one sentence, at once."""

import argparse
import collections
import json
import random
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from faults.live_targets import LIVE
from faults.mutations import harmed, harmed_json
from faults.own_targets import OWN
from faults.targets import FOREIGN, Target

TARGETS = (*FOREIGN, *OWN, *LIVE)

SLOW = 5.0
"""Seconds that no harmed file may take."""

GROWTH = 700 << 20
"""Bytes that a process may grow by over a harmed file."""

KEPT = Path(__file__).parent / "kept"
"""Harmed files that once were silent, slow or ended in another library's words, as ``TARGET.SEED-NUMBER``."""


def outcome(target: Target, content: bytes, want: object = None) -> str:
    """``"refused"`` or ``"read"``, or a sentence on what is wrong with how the file is taken."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path = target.seed(Path(name))
        path.write_bytes(content)
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            found, error = target.read(path), None
        except Exception as raised:
            found, error = None, raised
        seconds = time.perf_counter() - begin
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if seconds > SLOW:
        return f"takes {seconds:.1f} s"
    if grown > GROWTH:
        return f"takes {grown >> 20} MiB"
    if error is None:
        return "read" if not target.sure or found == want else "is read as something else, silently"
    return (
        "refused" if a_sentence(error) else f"ends in {type(error).__module__}.{type(error).__name__}: {error!s:.300}"
    )


def a_sentence(error: Exception) -> bool:
    """Whether an error is this library's: a ValueError or a file that isn't there, in one printable line."""
    own = type(error) in (ValueError, KeyError, FileNotFoundError) or type(error).__module__.startswith("ft_jax.")
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (
        own
        and " " in said
        and 10 < len(said) < 1200
        and not re.search(r"[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]", said)
    )


def original(target: Target) -> tuple[bytes, object]:
    """A target's good file and what is read of it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path = target.seed(Path(name))
        return path.read_bytes(), target.read(path)


def fuzzed(count: int, seed: int, targets: tuple[Target, ...] = TARGETS) -> Iterator[tuple[str, int, bytes, str]]:
    """So many harmed files in turns: target, number, content and outcome."""
    good = {target.name: original(target) for target in targets}
    for number in range(count):
        target = targets[number % len(targets)]
        draw = random.Random(f"{seed} {target.name} {number // len(targets)}")
        content, want = good[target.name]
        harm = harmed_json if target.json else harmed
        wrong = harm(content, draw)
        yield target.name, number, wrong, outcome(target, wrong, want)


def kept_as(name: str, seed: int, number: int) -> str:
    """The name of a file that is kept; what stands before the dot is the target's in letters alone."""
    return f"{_letters(name)}.{seed}-{number}"


def kept_wrong(name: str, content: bytes) -> None:
    """Keeps a harmed file, so that every later run of the tests reads it again."""
    KEPT.mkdir(exist_ok=True)
    (KEPT / name).write_bytes(content)


def kept() -> list[tuple[Target, Path]]:
    """The files that are kept, each with its target."""
    by_name = {_letters(target.name): target for target in TARGETS}
    return [(by_name[path.name.partition(".")[0]], path) for path in sorted(KEPT.iterdir())]


def _letters(name: str) -> str:
    return re.sub(r"\W+", "_", name.replace("'", ""))


def main() -> None:
    """Counts outcomes; a JSON line at the end, and one for each that is wrong, which is kept as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which it ends")
    parser.add_argument("--targets", nargs="+", help="those whose name begins so")
    parser.add_argument("--keep", action="store_true", help="keep what is wrong in tests/faults/kept")
    options = parser.parse_args()
    chosen = [t for t in TARGETS if not options.targets or any(t.name.startswith(one) for one in options.targets)]
    counts: collections.Counter = collections.Counter()
    until = time.monotonic() + options.seconds
    for name, number, content, found in fuzzed(options.count, options.seed, tuple(chosen)):
        good = found in ("refused", "read")
        counts["inputs"] += 1
        counts[found if good else "wrong"] += 1
        if not good:
            print(json.dumps({"target": name, "number": number, "wrong": found}), flush=True)
            if options.keep:
                kept_wrong(kept_as(name, options.seed, number), content)
        if time.monotonic() > until:
            break
    print(json.dumps(dict(counts)), flush=True)


if __name__ == "__main__":
    main()
