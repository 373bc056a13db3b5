"""A run's report: one self-contained page that shows the outcome first."""

import importlib
import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from ft_jax.core.catalogue import FAMILIES, Entry, catalogue
from ft_jax.outside import escaped
from ft_jax.training.report import data as report_data
from ft_jax.training.report.answers import answers_section
from ft_jax.training.report.attention import attention_section
from ft_jax.training.report.charts import line_chart, number
from ft_jax.training.report.data import PHASES, Run, Score
from ft_jax.training.report.page import PAGE, STYLE
from ft_jax.training.report.pictured import pictured_section
from ft_jax.training.report.tasks import tasks_section
from ft_jax.training.trials import Winner

MOST_GROUPS = 20
GOOD = ("finished", "completed", "done")
BAD = ("failed", "diverged", "error", "missed")


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes the report of one or more runs as a page that needs no other file and no network.

    Outcome first, then curves, composition, what learned, predictions and the command that reproduces it;
    several runs get a section each under a table of all outcomes. A run that is still going is shown as
    far as it is.

    Args:
      runs: run folders with ``experiment.json``, ``metrics.jsonl`` and, once ended, ``summary.json``.
      out: the page to write; written whole or not at all.

    Returns:
      `out`.

    Raises:
      ValueError: no runs, or a file of a run that does not hold what it should.
      FileNotFoundError: a folder that is not a run's.
    """
    if not runs:
        raise ValueError("a report needs at least one run; give the folder of a run, which ft-jax run prints")
    read = [report_data.read_run(Path(folder)) for folder in runs]
    heading = "h1" if len(read) == 1 else "h2"
    sections = [_section(run, index, heading) for index, run in enumerate(read, start=1)]
    title = f"{sections[0]['name']}: report" if len(read) == 1 else f"{len(read)} fine-tuning runs"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE).render(
        title=title,
        style=markupsafe.Markup(STYLE),
        runs=sections,
        value=report_data.value_text,
        change=_change,
        number=number,
        words=_words,
        breakable=_breakable,
    )
    return _write(Path(out), page)


def _write(out: Path, page: str) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(temporary, 0o644)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return out


def _words(text: str) -> markupsafe.Markup:
    """Documentation as markup: names in backticks become code."""
    return markupsafe.Markup(re.sub(r"`+(.+?)`+", r"<code>\1</code>", str(markupsafe.escape(text))))


def _breakable(path: str) -> markupsafe.Markup:
    """A path that may break after its slashes."""
    return markupsafe.escape(path).replace("/", markupsafe.Markup("/<wbr>"))


def _change(score: Score) -> str:
    if score.change is None or not score.verdict:
        return "–"
    if score.verdict == "unchanged":
        return "unchanged"
    size = f"{score.change:+.3f}" if abs(score.change) < 10 else f"{score.change:+,.1f}"
    return f"{size.replace('-', '−')} {score.verdict}"


def _section(run: Run, index: int, heading: str) -> dict[str, Any]:
    """What the template shows of one run."""
    experiment, summary = run.experiment, run.summary
    by_phase = summary.get("scores", {})
    scores = report_data.scores(run)
    measured = {phase for score in scores for phase in score.by_phase}
    between = [phase for phase in by_phase if phase not in PHASES]
    order = [*list(PHASES)[:-1], *between, "after"]
    status = summary.get("status", "still running, or stopped before its end")
    marks = report_data.marks(run)
    groups = report_data.groups(summary.get("parameters", {}).get("leaves", {}))
    return {
        "index": index,
        "heading": heading,
        "name": escaped(str(experiment.get("name", run.folder.name))),
        "doc": experiment.get("doc", ""),
        "status": status,
        "tone": "good" if status in GOOD else "bad" if status in BAD or not summary else "",
        "message": summary.get("message", ""),
        "facts": _facts(run),
        "headline": report_data.headline(run),
        "scores": scores,
        "phases": [(phase, PHASES.get(phase, phase.replace("_", " "))) for phase in order if phase in measured],
        "main_phases": [(phase, label) for phase, label in PHASES.items() if phase in measured],
        "no_scores": "the run has not ended" if not summary else "it was not evaluated",
        "expected": _expected(summary),
        "confusion": _confusion(summary),
        "charts": [
            {
                "title": chart.title,
                "legend": [series.name for series in chart.series],
                "svg": markupsafe.Markup(line_chart(chart.title, chart.series, marks, chart.smooth)),
            }
            for chart in report_data.charts(run)
        ],
        "marks": marks,
        "parts": _parts(run),
        "core_numbers": [*_numbers(experiment.get("optimizer")), *_set_at_start(experiment, "optimizer")],
        "groups": groups[:MOST_GROUPS],
        "more_groups": max(0, len(groups) - MOST_GROUPS),
        "learned": _learned(summary),
        "examples": [
            {key: example.get(key) for key in ("text", "label", "prediction", "probability")}
            for example in summary.get("examples", [])
        ],
        "tasks": tasks_section(summary, _watched_metric(experiment)),
        **answers_section(run.folder),
        "attention": attention_section(run.folder),
        "pictured": pictured_section(run.folder),
        "command": _command(experiment),
        "details": _details(run),
    }


def _confusion(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each set the classes and, for each class, the shares of its examples that are taken for each class."""
    told = summary.get("confusion") or {}
    tables = []
    for name, rows in (told.get("sets") or {}).items():
        classes = told.get("classes") or [str(index) for index in range(len(rows))]
        shares = [[value / sum(row) if sum(row) else None for value in row] for row in rows]
        cells = [
            [("–" if share is None else f"{share:.2f}", 0.0 if share is None else share) for share in row]
            for row in shares
        ]
        tables.append({"set": name, "classes": classes, "rows": list(zip(classes, cells, strict=False))})
    return tables


def _watched_metric(experiment: Mapping[str, Any]) -> str:
    """The metric of the matrix of tasks: the watched one where more of it is better, else accuracy."""
    watched = experiment.get("evaluation") or {}
    return watched["metric"] if watched.get("mode") == "max" and watched.get("metric") else "accuracy"


def _facts(run: Run) -> list[str]:
    facts = []
    if "seconds" in run.summary:
        facts.append(report_data.duration(run.summary["seconds"]))
    steps = run.summary.get("steps") or max((line.get("step", 0) for line in run.train), default=0)
    if steps:
        facts.append(f"{steps:,} steps")
    parameters = run.summary.get("parameters", {})
    if "trainable" in parameters:
        facts.append(f"{number(parameters['trainable'])} parameters learned")
    return facts


def _expected(summary: Mapping[str, Any]) -> str:
    told = [] if "winner" not in summary else [str(Winner(**summary["winner"])).capitalize()]
    return "; ".join([*told, *([f"Expected: {summary['expected']}"] if summary.get("expected") else [])])


def _parts(run: Run) -> list[dict[str, Any]]:
    """The composition's boxes. A renamed method is described by the catalogue's entry it was made from."""
    uses = [use for use in run.experiment.get("method", []) if isinstance(use, Mapping) and "name" in use]
    by_name = {_options(use).get("name", use["name"]): use for use in uses}
    parts = []
    for name in run.summary.get("composition") or by_name:
        use = by_name.get(name, {"name": name})
        entry = _entry(use["name"])
        parts.append(
            {
                "name": name,
                "summary": entry.summary if entry else "",
                "paper": entry.paper if entry else "",
                "numbers": [
                    *_numbers({key: value for key, value in _options(use).items() if key != "name"}),
                    *_set_at_start(run.experiment, name),
                ],
            }
        )
    return parts


def _set_at_start(experiment: Mapping[str, Any], owner: str) -> list[str]:
    """The numbers of one method that the experiment's ``hyper`` sets."""
    numbers = experiment.get("hyper") or {}
    return [
        f"{name.removeprefix(f'{owner}.')} = {_setting(value)} (set in hyper)"
        for name, value in numbers.items()
        if name.rpartition(".")[0] == owner
    ]


def _options(use: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the experiment sets: the options of a method of the catalogue, the numbers of one made in the file."""
    return use.get("options") or use.get("hyper") or {}


def _entry(name: str) -> Entry | None:
    family = name.partition(".")[0]
    if family not in FAMILIES:
        return None
    importlib.import_module(f"ft_jax.{family}")
    return catalogue.get(name)


def _numbers(values: Any) -> list[str]:
    """Settings as ``name = value``, nested ones by dotted name, the unset left out."""
    if not isinstance(values, Mapping):
        return []
    told = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            told += [f"{name}.{inner}" for inner in _numbers(value)]
        elif value is not None and name != "type":
            told.append(f"{name} = {_setting(value)}")
    return told


def _setting(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        return str(value)
    return ", ".join(_setting(one) for one in value) if isinstance(value, list) else f"{value:g}"


def _learned(summary: Mapping[str, Any]) -> str:
    parameters = summary.get("parameters", {})
    trainable, total = parameters.get("trainable", 0), parameters.get("total", 0)
    share = f" ({100 * trainable / total:.3g} %)" if total else ""
    return f"{trainable:,} of {total:,} parameters learned{share}."


def _command(experiment: Mapping[str, Any]) -> str:
    command = experiment.get("command") or f"ft-jax run {experiment.get('name', '')}"
    return command if isinstance(command, str) else shlex.join(command)


def _details(run: Run) -> list[tuple[str, str]]:
    """Facts about the run: what, where and how fast."""
    experiment, summary = run.experiment, run.summary
    told = []
    if "seed" in experiment:
        told.append(("seed", str(experiment["seed"])))
    throughput = summary.get("throughput")
    if isinstance(throughput, Mapping):
        told += [(name.replace("_", " "), number(value)) for name, value in throughput.items() if value is not None]
    elif throughput is not None:
        told.append(("throughput", f"{number(throughput)} per second"))
    if "seconds" in summary:
        told.append(("time", report_data.duration(summary["seconds"])))
    for name in ("devices", "parallelism"):
        value = summary.get(name) or experiment.get(name)
        if value:
            told.append((name, ", ".join(_numbers(value)) if isinstance(value, Mapping) else _setting(value)))
    versions = experiment.get("versions", {})
    if versions:
        told.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    told.append(("run folder", str(run.folder)))
    return told
