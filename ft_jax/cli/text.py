"""Text in columns that fit the terminal, and answers for scripts."""

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any


def columns(rows: Sequence[Sequence[str] | str], width: int | None = None) -> str:
    """Rows with aligned columns, the last one wrapped; a row that is a string is a heading.

    Args:
      rows: cells of each row, or a heading.
      width: in characters; the terminal's by default.

    Example:
      >>> print(columns(["transfer", ("transfer.full", "Every weight learns."), ("transfer.lora", "Low rank.")], 40))
      transfer
        transfer.full  Every weight learns.
        transfer.lora  Low rank.
    """
    width = width or shutil.get_terminal_size((110, 24)).columns
    cells = [row for row in rows if not isinstance(row, str)]
    sizes = [max(len(cell) for cell in column) for column in zip(*(row[:-1] for row in cells), strict=True)]
    indent = "  " if any(isinstance(row, str) for row in rows) else ""
    start = len(indent) + sum(size + 2 for size in sizes)
    lines: list[str] = []
    for row in rows:
        if isinstance(row, str):
            lines += ["", row] if lines else [row]
            continue
        first = indent + "".join(f"{cell:{size + 2}}" for cell, size in zip(row[:-1], sizes, strict=True))
        wrapped = textwrap.wrap(row[-1], max(width - start, 30), break_on_hyphens=False) or [""]
        lines.append((first + wrapped[0]).rstrip())
        lines += [" " * start + line for line in wrapped[1:]]
    return "\n".join(lines)


def answered(act: Callable[[Sequence[str]], tuple[int, dict[str, Any]]], words: Sequence[str]) -> int:
    """The status of ``act(words)``, which also gives what there is to tell.

    With ``--json`` among the words that is printed as one object, and whatever else is printed goes to stderr.
    """
    if "--json" not in words:
        return act(words)[0]
    with contextlib.redirect_stdout(sys.stderr):
        status, told = act(words)
    if told:
        print(json.dumps(told, ensure_ascii=False))
    return status
