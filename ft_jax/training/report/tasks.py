"""A stream of tasks in the report: the matrix of scores as a heat map, and what was forgotten."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe
import numpy as np

from ft_jax.training.continual import continual, matrix_of

CELL, LEFT, TOP = 56, 150, 26
MOST_LETTERS = 20


def tasks_section(summary: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """What the template shows of a run over several tasks; None of another.

    Args:
      summary: ``summary.json``.
      metric: the one that is watched; accuracy where that is not measured, or less of it is better.
    """
    found = matrix_of(summary.get("scores", {}), metric)
    if found is None:
        return None
    names, matrix = found
    numbers = {name: value for name, value in continual(matrix).items() if np.isfinite(value)}
    told = [(name.replace("_", " "), f"{value:.3f}".replace("-", "−")) for name, value in numbers.items()]
    return {"metric": metric, "numbers": told, "svg": markupsafe.Markup(heat_map(names, matrix))}


def heat_map(names: Sequence[str], matrix: np.ndarray) -> str:
    """The scores on every task (columns) before training and after each task (rows), as an ``<svg>`` element.

    What was not measured (NaN) has no cell.

    Example:
      >>> heat_map(["a", "b"], np.array([[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]])).count("<rect")
      6
    """
    low, high = float(np.nanmin(matrix)), float(np.nanmax(matrix))
    rows = ["before", *(f"after {name}" for name in names)]
    parts = []
    for at, name in enumerate(names):
        x = LEFT + CELL * (at + 0.5)
        parts.append(f'<text x="{x:.0f}" y="{TOP - 8}" text-anchor="middle">{html.escape(_short(name, 8))}</text>')
    for i, row in enumerate(rows):
        y = TOP + CELL / 2 * i
        parts.append(f'<text x="{LEFT - 8}" y="{y + 18:.0f}" text-anchor="end">{html.escape(_short(row))}</text>')
        for j, value in enumerate(matrix[i]):
            if np.isnan(value):
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            x = LEFT + CELL * j
            # The label is drawn on the page's own colours, so the cell stays light enough to read it on.
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL / 2 - 2}" rx="3" fill="var(--s0)" '
                f'fill-opacity="{0.06 + 0.5 * share:.2f}"/><text x="{x + CELL / 2 - 1:.0f}" y="{y + 18:.0f}" '
                f'text-anchor="middle" style="fill:var(--ink)">{value:.2f}</text>'
            )
    width, height = LEFT + CELL * len(names), TOP + CELL / 2 * len(rows)
    told = "; ".join(
        f"{row}: "
        + ", ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True) if not np.isnan(value))
        for row, values in zip(rows, matrix, strict=True)
    )
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" style="max-width:{width}px;width:100%" role="img" '
        f'aria-label="{html.escape(told)}">{"".join(parts)}</svg>'
    )


def _short(name: str, most: int = MOST_LETTERS) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
