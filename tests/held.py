"""Which laws, each by itself, have been seen to hold for which methods as they are now.

All laws of all methods take hours, so ``make laws`` goes on where it stopped: docs/laws.jsonl has a line a method, with
a digest of its sources, the core's and the laws', the laws that held and those that are not for it. A method whose line
has another digest is asked anew.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "laws.jsonl"
FILE = "tests/laws/test_separate.py"
LAWS = ("laws.py", "separate.py", "serving.py", "padding.py", "comparing.py", "subject.py")
"""Of ``ft_jax/testing``: what the laws say."""


def law_of(nodeid: str) -> tuple[str, str] | None:
    """The method and the law that a test asks; None for another test.

    Example:
      >>> law_of("tests/laws/test_separate.py::test_a_step_is_pure[rl.dpo]")
      ('rl.dpo', 'a_step_is_pure')
    """
    file, _, test = nodeid.partition("::")
    law, _, method = test.removesuffix("]").partition("[")
    return (method, law.removeprefix("test_")) if file == FILE and method else None


@functools.cache
def digests() -> dict[str, str]:
    """Of every method: its sources, the core's and the laws'."""
    from ft_jax.testing import pairs

    found, whole = pairs.digests(), hashlib.sha256()
    for name in LAWS:
        whole.update((ROOT / "ft_jax" / "testing" / name).read_bytes())
    laws = whole.hexdigest()[:8]
    return {name: f"{digest}.{found['core']}.{laws}" for name, digest in found.items() if name != "core"}


def recorded(now: Mapping[str, str], path: Path = RECORD) -> dict[str, dict[str, Any]]:
    """The lines by method, of those that are as they were."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {line["method"]: line for line in lines if now.get(line["method"]) == line["digest"]}


def held(lines: Mapping[str, Mapping[str, Any]], asked: tuple[str, str]) -> bool:
    """Whether a method's law has been seen, as `law_of` has it."""
    method, law = asked
    line = lines.get(method, {"holds": (), "not for it": ()})
    return law in line["holds"] or law in line["not for it"]


def keep(asked: tuple[str, str], skipped: bool, now: Mapping[str, str], path: Path = RECORD) -> None:
    """Writes down that a law held, or that it is not for the method."""
    method, law = asked
    lines = recorded(now, path)
    line = lines.get(method, {"method": method, "digest": now[method], "holds": [], "not for it": []})
    field = "not for it" if skipped else "holds"
    lines[method] = {**line, field: sorted({*line[field], law})}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(f"{json.dumps(lines[name])}\n" for name in sorted(lines)))
    unfinished.replace(path)
