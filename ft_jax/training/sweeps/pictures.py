"""Pictures of a sweep as inline SVG: history, importance, parallel coordinates."""

import html
import math
from collections.abc import Mapping, Sequence

from ft_jax.training.report.charts import number
from ft_jax.tuning.search import Axis, Choice

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 18, 34


def history(values: Sequence[float | None], mode: str, name: str) -> str:
    """Each trial's objective in order, and the best so far as a line.

    Example:
      >>> history([0.5, None, 0.7], "max", "accuracy").count("<circle")
      2
    """
    points = [(index, value) for index, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not points:
        return ""
    low, high = min(value for _, value in points), max(value for _, value in points)
    x = _scale(0, max(len(values) - 1, 1), LEFT, WIDTH - RIGHT)
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    better = max if mode == "max" else min
    best, path = None, []
    for index, value in points:
        best = value if best is None else better(best, value)
        path.append(f"{x(index):.1f} {y(best):.1f}")
    dots = "".join(f'<circle class="s1 dot" cx="{x(i):.1f}" cy="{y(v):.1f}" r="3"/>' for i, v in points)
    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 7}" y="{y(v) + 4:.1f}" text-anchor="end">{number(v)}</text>'
        for v in dict.fromkeys((low, (low + high) / 2, high))
    )
    said = f"{name} of {len(points)} trials, from {number(points[0][1])}; the best is {number(best)}"
    bottom = (
        f'<text x="{LEFT}" y="{HEIGHT - 10}">trial 0</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{len(values) - 1}</text>'
    )
    return _svg(said, f'{ticks}{bottom}<path class="s0" d="M{"L".join(path)}"/>{dots}')


def importances(shares: Mapping[str, float]) -> str:
    """How much of the objective's spread each field accounts for, as bars, most first.

    Example:
      >>> importances({"optimizer.learning_rate": 0.9, "seed": 0.1}).count("<rect")
      2
    """
    if not shares:
        return ""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rows, height = [], 34 * len(ordered) + 8
    for index, (name, share) in enumerate(ordered):
        at = 34 * index + 6
        wide = max(2.0, share * (WIDTH - 70))
        rows.append(
            f'<text x="2" y="{at + 10}">{html.escape(name)}</text>'
            f'<rect class="s0 fill" x="2" y="{at + 15}" width="{wide:.1f}" height="9" rx="4"/>'
            f'<text x="{wide + 8:.1f}" y="{at + 23}">{share:.2f}</text>'
        )
    said = "importance: " + ", ".join(f"{name} {share:.2f}" for name, share in ordered)
    return _svg(said, "".join(rows), height)


def parallel(
    trials: Sequence[tuple[Mapping[str, object], float]], space: Mapping[str, Axis], mode: str, name: str
) -> str:
    """Each trial as a line through its values, the objective last; the best quarter stands out.

    Args:
      trials: values by path, and the objective.
      space: the axes.
      mode: ``"max"`` or ``"min"``.
      name: of the objective.
    """
    trials = [(values, score) for values, score in trials if math.isfinite(score)]
    if not trials:
        return ""
    low, high = min(score for _, score in trials), max(score for _, score in trials)
    places = _scale(0, len(space), LEFT, WIDTH - RIGHT - 24)
    goal = _scale(low, high, HEIGHT - BOTTOM, TOP)

    def height(axis, value):
        if isinstance(axis, Choice):
            share = axis.values.index(value) / max(len(axis.values) - 1, 1)
        else:
            share = axis.share(value)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    lines, ranked = [], sorted(trials, key=lambda one: one[1] if mode == "min" else -one[1])
    good = max(1, len(ranked) // 4)
    for rank, (values, score) in reversed(list(enumerate(ranked))):
        path = [f"{places(i):.1f} {height(axis, values[key]):.1f}" for i, (key, axis) in enumerate(space.items())]
        path.append(f"{places(len(space)):.1f} {goal(score):.1f}")
        told = html.escape(f"{name} {number(score)}: " + ", ".join(f"{key}={value}" for key, value in values.items()))
        kind = "s0" if rank < good else "s1 raw"
        lines.append(f'<path class="{kind}" d="M{"L".join(path)}"><title>{told}</title></path>')
    marks = []
    for index, (key, axis) in enumerate([*space.items(), (name, None)]):
        at = places(index)
        ends = (number(low), number(high)) if axis is None else _ends(axis)
        short = key.rpartition(".")[2]
        marks.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{at:.1f}" y="{TOP - 5}" text-anchor="middle">{html.escape(ends[1])}</text>'
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">{html.escape(ends[0])}</text>'
            f'<text x="{at:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(short)}'
            f"<title>{html.escape(key)}</title></text>"
        )
    said = f"{len(trials)} trials as lines through {', '.join(space)} and {name}; the best {good} stand out"
    return _svg(said, "".join(marks + lines))


def _ends(axis: Axis) -> tuple[str, str]:
    if isinstance(axis, Choice):
        return str(axis.values[0]), str(axis.values[-1])
    return number(axis.low), number(axis.high)


def _scale(low, high, start, end):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _svg(said: str, inside: str, height: int = HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(said)}">{inside}</svg>'
    )
