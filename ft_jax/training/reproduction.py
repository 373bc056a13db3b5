"""A published number, ours beside it, and what may be said of the two."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
import markupsafe
import numpy as np

from ft_jax.assets.cache import replacing
from ft_jax.outside import printable
from ft_jax.outside.strict_json import parse_json
from ft_jax.training.report.page import STYLE
from ft_jax.training.run_folder import finite, versions


@dataclasses.dataclass(frozen=True)
class Finding:
    """One number of a paper beside ours; `within`, `at_least` and `at_most` make them.

    Attributes:
      what: the number in words, with its unit.
      paper: as the paper prints it, or ``"-"`` where the paper only says which is better.
      ours: one value a seed, or a single one where nothing is random.
      asked: what ours was asked to be.
      met: whether it is.
    """

    what: str
    paper: str
    ours: tuple[float, ...]
    asked: str
    met: bool

    @property
    def shown(self) -> str:
        """Ours as people read it: the mean, and the range where there are several."""
        mean = f"{statistics.fmean(self.ours):.4g}"
        return mean if len(self.ours) == 1 else f"{mean} ({min(self.ours):.4g} to {max(self.ours):.4g})"


def within(
    what: str, paper: float, ours: float | Sequence[float], tolerance: float, said: str | None = None
) -> Finding:
    """A finding whose mean is asked to be the paper's number up to a tolerance, or what `said` calls it.

    Example:
      >>> within("best value", 0.39, [0.3901, 0.3899], 1e-3).met
      True
    """
    values = _values(ours)
    met = abs(statistics.fmean(values) - paper) <= tolerance
    return Finding(what, said or f"{paper:g}", values, f"{paper:g} ± {tolerance:g}", met)


def at_least(what: str, bound: float, ours: float | Sequence[float], paper: str = "-") -> Finding:
    """A finding whose mean is asked to be at least `bound`."""
    values = _values(ours)
    return Finding(what, paper, values, f"≥ {bound:g}", statistics.fmean(values) >= bound)


def at_most(what: str, bound: float, ours: float | Sequence[float], paper: str = "-") -> Finding:
    """A finding whose mean is asked to be at most `bound`."""
    values = _values(ours)
    return Finding(what, paper, values, f"≤ {bound:g}", statistics.fmean(values) <= bound)


def _values(ours) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(ours))


@dataclasses.dataclass(frozen=True)
class Found:
    """What measuring gave.

    Attributes:
      findings: the numbers.
      pictures: an ``<svg>`` element by its title, such as `ft_jax.training.report.charts.line_chart` gives.
    """

    findings: Sequence[Finding]
    pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A row of ``ft-jax reproduce``; ``experiments/reproduce/<name>.py`` defines one as ``reproduction``.

    Attributes:
      title: what is reproduced, in a line.
      paper: authors, year, arXiv id or venue.
      where: the table, figure or equation.
      setting: ``"same"`` as the paper's in all that decides the number, or ``"other"``.
      measure: ``(seeds, quick) -> Found``. `seeds` are the ones to run; `quick` says that less training is
        enough for a look, and findings that need the whole are then left out. Where there is `data`, it is
        ``(seeds, quick, address)``.
      difference: how the setting differs, in a sentence; empty where it is the same.
      seeds: of a whole run; ``quick`` takes the first. Empty where nothing is random.
      seconds: a whole run's time on two CPU cores, measured.
      data: the address of what it reads, as `ft_jax.data.load` takes it; empty where it makes its own.

    Raises:
      ValueError: another setting without the difference said, or the same with one.
    """

    title: str
    paper: str
    where: str
    setting: Literal["same", "other"]
    measure: Callable[..., Found]
    difference: str = ""
    seeds: tuple[int, ...] = ()
    seconds: float = 0.0
    data: str = ""

    def __post_init__(self):
        if self.setting not in ("same", "other"):
            raise ValueError(f"setting is {printable(self.setting)}; use 'same' or 'other'")
        if (self.setting == "other") != bool(self.difference):
            raise ValueError(
                f"{self.title} has setting {printable(self.setting)} and difference {printable(self.difference)}; "
                "say how another setting differs, and nothing of the same"
            )


def verdict(setting: str, findings: Sequence[Finding], quick: bool) -> str:
    """What may be said: never "reproduced" where the setting differs, and no more than was measured.

    Example:
      >>> verdict("other", [at_least("accuracy", 0.9, 0.95)], quick=False)
      'direction only: holds'
      >>> verdict("same", [at_least("accuracy", 0.9, 0.85)], quick=True)
      'same setting: does not hold (quick)'
    """
    said = "same setting" if setting == "same" else "direction only"
    holds = "holds" if findings and all(finding.met for finding in findings) else "does not hold"
    return f"{said}: {holds}{' (quick)' if quick else ''}"


def record(name: str, row: Reproduction, found: Found, seeds: Sequence[int], quick: bool, seconds: float) -> dict:
    """A measured row as JSON."""
    return {
        **described(name, row),
        "seeds": list(seeds),
        "seconds": round(seconds, 1),
        "findings": [{**dataclasses.asdict(one), "shown": one.shown} for one in found.findings],
        "verdict": verdict(row.setting, found.findings, quick),
        "holds": bool(found.findings) and all(one.met for one in found.findings),
        "pictures": dict(found.pictures),
    }


def described(name: str, row: Reproduction) -> dict[str, Any]:
    """A row as JSON before it is measured."""
    return {"name": name, **{f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name != "measure"}}


NOT_KEPT = ("seconds", "pictures")
"""Parts of a record that a file of records leaves out: what depends on the computer, and what is long."""

DECIDES = ("python", "ft_jax", "jax", "jaxlib", "optax", "numpy")
"""Packages whose versions a kept record names."""


def kept(path: Path) -> dict[str, dict]:
    """The records of a file that `keep` wrote, by name; none where there is no file.

    Raises:
      ValueError: a line that is no record.
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines()
    told = [parse_json(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    for number, one in enumerate(told, start=1):
        if "name" not in one or "verdict" not in one:
            raise ValueError(
                f"{path}:{number} has no name and verdict; give a file that ft-jax reproduce --record wrote"
            )
    return {one["name"]: one for one in told}


def keep(path: Path, told: Mapping[str, Any]) -> None:
    """Puts a record, as `record` gives it, in place of its name's line in a file of JSON lines ordered by name.

    The line says when and with which versions it was measured.
    """
    found = versions()
    line = {name: value for name, value in told.items() if name not in NOT_KEPT}
    line |= {"date": time.strftime("%Y-%m-%d"), "versions": {name: found[name] for name in DECIDES if name in found}}
    lines = {**kept(path), told["name"]: finite(line)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("".join(f"{json.dumps(lines[name], ensure_ascii=False)}\n" for name in sorted(lines)).encode())


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Published numbers and ours</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<h1>Published numbers and ours</h1>
<p class="soft">{{ holding }} of {{ rows|length }} rows hold. Each is run again by ft-jax reproduce NAME.</p>
{% for row in rows %}
<section class="run">
<h2>{{ row.title }}</h2>
<p><span class="status {{ 'good' if row.holds else 'bad' }}">{{ row.verdict }}</span>
{{ row.paper }}, {{ row.where }}</p>
{% if row.difference %}<p class="soft">{{ row.difference }}</p>{% endif %}
<div class="card scroll" tabindex="0" aria-label="{{ row.name }}">
<table>
<thead><tr><th>number</th><th class="n">paper</th><th class="n">ours</th><th class="n">asked</th><th></th></tr></thead>
<tbody>
{% for one in row.findings %}
<tr><th scope="row">{{ one.what }}</th><td class="n">{{ one.paper }}</td><td class="n">{{ one.shown }}</td>
<td class="n">{{ one.asked }}</td>
<td class="{{ 'better' if one.met else 'worse' }}">{{ 'met' if one.met else 'missed' }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% if row.pictures %}<div class="charts">
{% for title, picture in row.pictures.items() %}
<figure class="card"><figcaption>{{ title }}</figcaption>{{ picture|safe }}</figure>
{% endfor %}
</div>{% endif %}
<p class="soft small">{{ 'seeds ' ~ row.seeds|join(', ') if row.seeds else 'nothing is random' }};
{{ row.seconds }} s; ft-jax reproduce {{ row.name }}</p>
</section>
{% endfor %}
</main>
</body>
</html>
"""


def write_page(rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Writes measured rows, as `record` gives them, as a page that needs no other file."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    holding = sum(row["holds"] for row in rows)
    page = environment.from_string(PAGE).render(rows=rows, holding=holding, style=markupsafe.Markup(STYLE))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out
