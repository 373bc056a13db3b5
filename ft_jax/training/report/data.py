"""What a run folder says, shaped for its report."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_jax.outside import parse_json, read_json
from ft_jax.training.report.charts import Mark, Series, number
from ft_jax.training.seal import SEAL, Damaged, unseal

PHASES = {"before": "before training", "head_only": "head only", "after": "after training"}
FALLING = ("loss", "perplexity", "error", "divergence", "forgetting", "brier")
NOT_NUMBERS = ("kind", "step", "phase", "set", "time")
HYPER = ("learning_rate",)
NOT_TERMS = ("loss", "gradient_norm", "epoch", "seconds", "values")
SPEEDS = ("examples_per_second", "tokens_per_second", "rollout_seconds", "update_seconds", "memory_gib")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder's three files.

    Attributes:
      folder: where it is.
      experiment: ``experiment.json``: the resolved experiment with name, command line, seed and versions.
      summary: ``summary.json``, empty while the run has not ended.
      train, evaluations, events: the lines of ``metrics.jsonl`` by kind.
    """

    folder: Path
    experiment: Mapping[str, Any]
    summary: Mapping[str, Any]
    train: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Score:
    """One metric of one evaluation set in every phase that was measured, and whether more of it is better."""

    set: str
    metric: str
    by_phase: Mapping[str, float]
    rises: bool = True

    @property
    def change(self) -> float | None:
        """After minus before, or None without both."""
        if "before" in self.by_phase and "after" in self.by_phase:
            return self.by_phase["after"] - self.by_phase["before"]
        return None

    @property
    def verdict(self) -> str:
        """The change in a word."""
        change = self.change
        if change is None or not math.isfinite(change):
            return ""
        if change == 0:
            return "unchanged"
        return "better" if (change > 0) == self.rises else "worse"


@dataclasses.dataclass(frozen=True)
class Group:
    """The learned parameters whose paths differ by a layer's number only."""

    pattern: str
    leaves: int
    size: int
    share: float


def read_run(folder: Path) -> Run:
    """Reads a run folder; a run that is still going has no summary yet.

    Raises:
      FileNotFoundError: no such folder, or no ``experiment.json`` in it.
      ValueError: a file that does not hold what it should.
    """
    folder = Path(folder)
    if not (folder / "experiment.json").is_file():
        what = "has no experiment.json" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"{folder} {what}; give the folder of a run, which ft-jax run prints")
    experiment = _json(folder / "experiment.json")
    summary = _json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    lines: dict[str, list] = {"train": [], "evaluation": [], "event": []}
    for line in _lines(folder / "metrics.jsonl"):
        lines.setdefault(line.get("kind", "train"), []).append({**line, **line.get("values", {})})
    return Run(folder, experiment, summary, lines["train"], lines["evaluation"], lines["event"])


def _json(path: Path) -> dict:
    value = read_json(path)
    try:
        return unseal(value) if SEAL in value else value
    except Damaged as error:
        raise ValueError(f"{path} is damaged ({error}); `ft-jax run` on the same folder mends it") from None


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    values, lines = [], path.read_bytes().split(b"\n")
    for at, line in enumerate(lines, start=1):
        try:
            values += [parse_json(line, f"line {at} of {path}")] if line.strip() else []
        except ValueError as error:
            # The last line of a run that was killed may be half written.
            if at < len(lines):
                raise ValueError(f"{str(error).partition(';')[0]}; mend or remove the line") from None
    return values


def scores(run: Run) -> list[Score]:
    """Every metric of every evaluation set; the metric people look for first comes first.

    A population's values, one per trial, become the best, the mean and the worst.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for phase, sets in run.summary.get("scores", {}).items():
        for name, metrics in (sets or {}).items():
            for metric, value in metrics.items():
                found.setdefault((name, metric), {})[phase] = _floats(value)
    table, terms = [], terms_of(run)
    for (name, metric), by_phase in found.items():
        if metric in terms and by_phase == found.get((name, "loss")):
            continue  # the only term is the loss
        rises = metric not in terms and _rises(metric)
        for label, pick in _spread(metric, by_phase, rises):
            table.append(Score(name, label, {phase: pick(values) for phase, values in by_phase.items()}, rises))
    order = {name: index for index, name in enumerate(dict.fromkeys(score.set for score in table))}
    return sorted(table, key=lambda score: (order[score.set], not score.rises, score.metric in terms))


def terms_of(run: Run) -> set[str]:
    """The names of the loss's terms: what training lines hold besides the known columns."""
    told = {name for line in run.train for name in line} - {*NOT_NUMBERS, *SPEEDS, *HYPER, *NOT_TERMS}
    return {name for name in told if "/" not in name}  # what methods tell of examples is no term


def _rises(metric: str) -> bool:
    return not any(word in metric.lower() for word in FALLING)


def _spread(metric: str, by_phase: Mapping[str, list[float]], rises: bool) -> list[tuple[str, Callable]]:
    """Labels, and what they take of a list of values."""
    trials = max(map(len, by_phase.values()))
    if trials == 1:
        return [(metric, lambda values: values[0])]
    best, worst = (max, min) if rises else (min, max)
    return [
        (f"{metric}, best of {trials}", lambda values: _of_finite(best, values)),
        (f"{metric}, mean", lambda values: _of_finite(lambda kept: sum(kept) / len(kept), values)),
        (f"{metric}, worst", lambda values: _of_finite(worst, values)),
    ]


def _of_finite(function: Callable, values: Sequence[float]) -> float:
    kept = [value for value in values if math.isfinite(value)]
    return function(kept) if kept else math.nan


def _floats(value: Any) -> list[float]:
    return [_float(one) for one in value] if isinstance(value, list) else [_float(value)]


def _float(value) -> float:
    return math.nan if value is None else float(value)


def headline(run: Run) -> list[Score]:
    """One score per evaluation set: the first that rises with quality, else the first."""
    first: dict[str, Score] = {}
    for score in scores(run):
        first.setdefault(score.set, score)
    return list(first.values())


def groups(leaves: Mapping[str, int]) -> list[Group]:
    """Parameters, path to size, by path with layers' numbers replaced by ``*``, largest first.

    Example:
      >>> groups({"layers/0/kernel": 3, "layers/1/kernel": 3, "head": 2})[0]
      Group(pattern='layers/*/kernel', leaves=2, size=6, share=0.75)
    """
    total = sum(leaves.values()) or 1
    found: dict[str, list[int]] = {}
    for path, size in leaves.items():
        found.setdefault(re.sub(r"(?<=/)\d+(?=/)", "*", path), []).append(size)
    table = [Group(pattern, len(sizes), sum(sizes), sum(sizes) / total) for pattern, sizes in found.items()]
    return sorted(table, key=lambda group: -group.size)


def marks(run: Run) -> list[Mark]:
    """The run's events, numbered in order."""
    told = []
    for event in run.events:
        text = str(event.get("message") or event.get("cause") or "event")
        cause = event.get("cause")
        if cause and event.get("message"):
            text = f"{text} ({cause})"
        told.append((float(event.get("step", 0)), text))
    return [Mark(step, index, text) for index, (step, text) in enumerate(sorted(told), start=1)]


@dataclasses.dataclass(frozen=True)
class Chart:
    """What a chart shows; `smooth` for the noise of single batches."""

    title: str
    series: Sequence[Series]
    smooth: bool = False


def charts(run: Run) -> list[Chart]:
    """Loss and its terms, evaluation metrics, numbers that change, gradient norm and speed."""
    columns = _columns(run.train)
    hyper = {name: columns.pop(name) for name in HYPER if name in columns}
    rest = {name: points for name, points in columns.items() if name not in ("epoch", "seconds")}
    speeds = {name: rest.pop(name) for name in SPEEDS if name in rest}
    norm = rest.pop("gradient_norm", None)
    loss = rest.pop("loss", None)
    found = []
    if loss:
        found.append(Chart("Loss (sum of the terms)", [Series("loss", loss)], smooth=True))
    watched = {name: rest.pop(name) for name in list(rest) if "/" in name}
    if rest and (len(rest) > 1 or not loss):
        found.append(Chart("Terms of the loss", [Series(name, points) for name, points in rest.items()], smooth=True))
    found += _evaluation_charts(run)
    found += _winner_charts(run)
    for name, points in watched.items():
        found.append(Chart(name, [Series(name, points)], smooth=True))
    for name, points in {**_changed_numbers(run), **hyper}.items():
        if len({str(value) for _, value in points}) > 1:
            found.append(Chart(name, [Series(name, points)]))
    if norm:
        found.append(Chart("Gradient norm", [Series("gradient norm", norm)], smooth=True))
    for name, points in speeds.items():
        found.append(Chart(name.replace("_", " ").capitalize(), [Series(name.replace("_", " "), points)], smooth=True))
    return found


def _changed_numbers(run: Run) -> dict[str, list]:
    """Numbers that events changed, as steps: the old value up to the event, the new one from there."""
    last = max((line.get("step", 0) for line in run.train), default=0)
    numbers: dict[str, list] = {}
    for event in run.events:
        if "number" in event and _numeric(event.get("old")) and _numeric(event.get("new")):
            points = numbers.setdefault(event["number"], [(0, event["old"])])
            points += [(event["step"], event["old"]), (event["step"], event["new"])]
    for points in numbers.values():
        points.append((max(last, points[-1][0]), points[-1][1]))
    return numbers


def _columns(lines) -> dict[str, list]:
    columns: dict[str, list] = {}
    for line in lines:
        for name, value in line.items():
            if name not in NOT_NUMBERS and _numeric(value):
                columns.setdefault(name, []).append((line.get("step", 0), value))
    return columns


def _numeric(value) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_numeric(one) and not isinstance(one, list) for one in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _evaluation_charts(run: Run) -> list[Chart]:
    metrics: dict[str, dict[str, list]] = {}
    for line in run.evaluations:
        for name, points in _columns([line]).items():
            metrics.setdefault(name, {}).setdefault(line.get("set", "evaluation"), []).extend(points)
    terms = terms_of(run)
    kept = {metric: sets for metric, sets in metrics.items() if metric not in terms or len(terms) > 1}
    ordered = sorted(kept.items(), key=lambda item: (item[0] in terms, not _rises(item[0])))
    return [
        Chart(f"Evaluation: {metric.replace('_', ' ')}", [Series(name, points) for name, points in sets.items()])
        for metric, sets in ordered
        if any(len(points) > 1 for points in sets.values())
    ]


def _winner_charts(run: Run) -> list[Chart]:
    """The watched metric of every trial against each number that differs between them."""
    won = run.summary.get("winner") or {}
    found = []
    for name, tried in won.get("tried", {}).items():
        far = min(tried) > 0 and max(tried) / min(tried) > FAR
        places = [math.log10(value) for value in tried] if far else tried
        points = sorted((x, y) for x, y in zip(places, won["values"], strict=True) if y is not None)
        title = f"{won['metric'].replace('_', ' ')} by {'log₁₀ of ' * far}{name}"
        found.append(Chart(title, [Series(won["metric"], points)]))
    return found


FAR = 20.0
"""Numbers that lie further apart than by this factor are drawn by their logarithms."""


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
      >>> duration(9.34), duration(151.2), duration(7500)
      ('9.3 s', '2 min 31 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def value_text(score: Score, phase: str) -> str:
    """A score's value in a phase."""
    value = score.by_phase.get(phase)
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else number(value)
