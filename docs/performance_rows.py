"""The lines in benchmarks/results."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def lines(case: str) -> list[dict[str, Any]]:
    """The rows of a case, oldest first."""
    file = RESULTS / f"{case}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def latest(rows: Iterable[dict[str, Any]], *fields: str) -> list[dict[str, Any]]:
    """The newest row of each combination of `fields`."""
    found = {tuple(json.dumps(row.get(field)) for field in fields): row for row in rows}
    return list(found.values())
