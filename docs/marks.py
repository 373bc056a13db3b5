"""What the scripts beside it share: tables in Markdown, and a page's part between two marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

BEGIN, END = "<!-- tables begin -->", "<!-- tables end -->"


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


def page(text: str, tables: str) -> str:
    """The page with the tables between its marks.

    Raises:
      ValueError: a page without both marks, once each and in their order.
    """
    before, begins, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends) or BEGIN in rest or END in before + after:
        raise ValueError(f"the page has not one {BEGIN!r} and after it one {END!r}, between which its tables go")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def write(path: Path, tables: str) -> None:
    """Puts the tables into a page."""
    path.write_text(page(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
