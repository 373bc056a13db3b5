"""Writes the tables of docs/multimodal.md from what was recorded: ``python docs/multimodal_tables.py``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marks import claims, lines, several, table, write

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "multimodal.jsonl"
PAGE = HERE / "multimodal.md"


def of_ways(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a way and a column a measure: the mean over the seeds, and their range.

    Example:
      >>> print(of_ways([{"way": "all", "measure": "zero_shot", "values": [0.5, 0.7]}]))
      |  | zero shot |
      | --- | --- |
      | all | 0.600 (0.500 to 0.700) |
    """
    measures, ways = (list(dict.fromkeys(row[field] for row in rows)) for field in ("measure", "way"))
    cells = {(row["way"], row["measure"]): several(row["values"], ".3f") for row in rows}
    told = [[way, *(cells.get((way, measure), "") for measure in measures)] for way in ways]
    return table(["", *(measure.replace("_", " ") for measure in measures)], told)


def tables() -> dict[str, str]:
    """What stands between the marks: each experiment's table and what was claimed of it."""
    found = lines(RECORDS)
    parts = {}
    for name in dict.fromkeys(line["experiment"] for line in found):
        own = [line for line in found if line["experiment"] == name]
        parts[name] = f"{of_ways([line for line in own if line['kind'] == 'row'])}\n\n{claims(own)}"
    return parts


if __name__ == "__main__":
    write(PAGE, tables())
