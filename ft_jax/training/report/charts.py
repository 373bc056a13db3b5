"""Line charts as inline SVG that follows the page's light or dark colours."""

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 18, 26
COLOURS = 6
MOST_POINTS = 300


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
      name: for the legend.
      points: ``(step, value)`` in order of step; values may be lists (one per member), drawn as mean and range.
    """

    name: str
    points: Sequence[tuple[float, float | Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line where something happened: its step, its number in the list below, and what it was."""

    step: float
    number: int
    text: str


def line_chart(title: str, series: Sequence[Series], marks: Sequence[Mark] = (), smooth: bool = False) -> str:
    """A chart as an ``<svg>`` element with a title and a description for screen readers.

    Args:
      title: what is shown, such as ``"Loss"``.
      series: the lines; ones without a finite point are left out.
      marks: where something happened.
      smooth: draws noisy lines faintly with their running mean on top.

    Example:
      >>> line_chart("Loss", [Series("task", [(1, 0.7), (2, 0.5)])]).count("<path")
      1
    """
    lines = [(one.name, _finite(one.points)) for one in series]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return ""
    steps = [step for one in series for step, _ in one.points] + [mark.step for mark in marks]
    lows = [low for _, points in lines for _, _, low, _ in points]
    highs = [high for _, points in lines for _, _, _, high in points]
    logarithmic = min(lows) > 0 and max(highs) / min(lows) > 200
    x, x_ticks = _axis(min(steps), max(steps), LEFT, WIDTH - RIGHT, False)
    y, y_ticks = _axis(min(lows), max(highs), HEIGHT - BOTTOM, TOP, logarithmic, pad=0.06)
    parts = [_grid(x, x_ticks, y, y_ticks)]
    for mark in marks:
        at = x(mark.step)
        parts.append(
            f'<g class="mark"><line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{at:.1f}" y="{TOP - 6}" text-anchor="middle">{mark.number}</text>'
            f"<title>{html.escape(mark.text)}</title></g>"
        )
    for index, (_, points) in enumerate(lines):
        parts.append(_line(points, x, y, index % COLOURS, smooth))
    described = "; ".join(
        f"{name} from {number(points[0][1])} at step {number(points[0][0])} "
        f"to {number(points[-1][1])} at step {number(points[-1][0])}"
        for name, points in lines
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(f"{title}: {described}")}">{"".join(parts)}</svg>'
    )


def number(value: float) -> str:
    """A number in few characters.

    Example:
      >>> number(0.81749), number(22713728), number(5e-05), number(1200.0)
      ('0.817', '22.7M', '5e-05', '1,200')
    """
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6:
        scale, unit = (1e9, "B") if abs(value) >= 1e9 else (1e6, "M")
        return f"{value / scale:.3g}{unit}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if 1e4 <= abs(value) < 1e6 else number(value)


def _finite(points):
    """``(step, mean, low, high)`` of the points that can be drawn, thinned out."""
    kept = []
    for step, value in points:
        values = [float(one) for one in (value if isinstance(value, list | tuple) else [value])]
        values = [one for one in values if math.isfinite(one)]
        if values:
            kept.append((float(step), sum(values) / len(values), min(values), max(values)))
    size = -(-len(kept) // MOST_POINTS)
    if size > 1:
        kept = [_merged(kept[start : start + size]) for start in range(0, len(kept), size)]
    return kept


def _merged(points):
    count = len(points)
    step, mean, low, high = (sum(column) / count for column in zip(*points, strict=True))
    return step, mean, low, high


def _axis(low: float, high: float, start: float, end: float, logarithmic: bool, pad: float = 0.0):
    """The map from values to places, and the ticks."""
    if logarithmic:
        inner, _ = _axis(math.log10(low), math.log10(high), start, end, False, pad)
        exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return (lambda value: inner(math.log10(value))), [10.0**exponent for exponent in exponents]
    if high == low:
        margin = abs(low) * 0.1 or 1.0
        low, high = (low - margin, high + margin) if pad else (low, low + margin)
    margin = pad * (high - low)
    low, high = low - margin, high + margin
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough)
    first = math.ceil(low / gap - 1e-9)
    last = math.floor(high / gap + 1e-9)
    ticks = [index * gap for index in range(first, last + 1)]
    return (lambda value: start + (value - low) / (high - low) * (end - start)), ticks


def _grid(x, x_ticks, y, y_ticks) -> str:
    parts = []
    for tick in y_ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{LEFT - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in x_ticks:
        if x(tick) < LEFT + 16:
            continue  # the word "step" stands there
        parts.append(f'<text x="{x(tick):.1f}" y="{base + 17}" text-anchor="middle">{_tick(tick)}</text>')
    parts.append(f'<text x="{LEFT - 7}" y="{base + 17}" text-anchor="end">step</text>')
    return "".join(parts)


def _line(points, x, y, colour: int, smooth: bool) -> str:
    places = [(x(step), y(mean)) for step, mean, _, _ in points]
    if len(places) == 1:
        return f'<circle class="s{colour} dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3.5"/>'
    parts = []
    if any(high > low for _, _, low, high in points):
        edge = [(x(step), y(high)) for step, _, _, high in points]
        edge += [(x(step), y(low)) for step, _, low, _ in reversed(points)]
        parts.append(f'<path class="s{colour} band" d="{_path(edge)}Z"/>')
    if smooth and len(places) > 20:
        parts.append(f'<path class="s{colour} raw" d="{_path(places)}"/>')
        places = [(x(step), y(value)) for step, value in _running_mean(points)]
    parts.append(f'<path class="s{colour}" d="{_path(places)}"/>')
    if len(places) <= 20:
        parts += [f'<circle class="s{colour} dot" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in places]
    return "".join(parts)


def _running_mean(points):
    radius = max(2, len(points) // 25)
    for index, (step, *_) in enumerate(points):
        # Narrower near the ends, where a one-sided mean would bend the curve.
        reach = max(2, min(radius, index, len(points) - 1 - index))
        window = [mean for _, mean, _, _ in points[max(0, index - reach) : index + reach + 1]]
        yield step, sum(window) / len(window)


def _path(places) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
