"""What the scripts beside it share: records, tables in Markdown, and a page's part between two marks."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables begin -->", "<!-- tables end -->"


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def several(values: Sequence[float], form: str = ".3g") -> str:
    """The mean, and the range where there are several that differ.

    Example:
      >>> several([0.5, 1.0]), several([0.5], ".3f")
      ('0.75 (0.5 to 1)', '0.500')
    """
    mean = format(statistics.fmean(values), form)
    return mean if len(set(values)) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def claims(found: Sequence[Mapping[str, Any]]) -> str:
    """What was claimed, as a list; what does not hold is marked, and records of something else are left out.

    Example:
      >>> print(claims([{"text": "as claimed", "met": True}, {"way": "mean"}, {"text": "better", "met": False}]))
      - as claimed.
      - **Not so:** better.
    """
    return "\n".join(f"- {'' if one['met'] else '**Not so:** '}{one['text']}." for one in found if "text" in one)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; a bar in a cell is no column.

    Example:
      >>> print(table(["a"], [["b|c"]]))
      | a |
      | --- |
      | b\\|c |
    """
    cells = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def page(text: str, tables: str | Mapping[str, str]) -> str:
    """The page with the tables between its marks.

    Args:
      text: of the page.
      tables: what stands between `BEGIN` and `END`; or several parts by name, each between ``<!-- name -->`` and
        ``<!-- /name -->``.

    Raises:
      ValueError: a page without both marks, once each and in their order.
    """
    parts = {(BEGIN, END): tables} if isinstance(tables, str) else {
        (f"<!-- {name} -->", f"<!-- /{name} -->"): part for name, part in tables.items()
    }  # fmt: skip
    for (begin, end), part in parts.items():
        before, begins, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        if not (begins and ends) or begin in rest or end in before + after:
            raise ValueError(f"the page has not one {begin!r} and after it one {end!r}, between which its tables go")
        text = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    return text


def banded(axes: Any, steps: Sequence[float], curves: Sequence[Sequence[float]], label: str) -> None:
    """Draws the mean of several curves, with their range behind it."""
    by_step = list(zip(*curves, strict=True))
    (drawn,) = axes.plot(steps, [statistics.fmean(x) for x in by_step], label=label)
    low, high = [min(x) for x in by_step], [max(x) for x in by_step]
    axes.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.12)


def write(path: Path, tables: str | Mapping[str, str]) -> None:
    """Puts the tables into a page."""
    path.write_text(page(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
