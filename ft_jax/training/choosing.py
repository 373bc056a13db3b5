"""Which of several architectures suits an experiment's task: candidates as words, one run, and its page."""

import dataclasses
import functools
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jinja2
import markupsafe

from ft_jax.core.params import digest
from ft_jax.meta.choosing import Candidate, choose, recommended, standings, why
from ft_jax.outside import check_name
from ft_jax.training.composition import MethodLike, Parts, build_methods, built, with_new_head
from ft_jax.training.experiment import Experiment
from ft_jax.training.fit import fit
from ft_jax.training.overrides import override
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.report.page import STYLE
from ft_jax.training.result import Moment, Result
from ft_jax.training.written_methods import methods_of

DEFAULT: Mapping[str, tuple[str, ...]] = {
    "head": ("transfer.head_only",),
    "bitfit": ("transfer.bitfit",),
    "ia3": ("attention.ia3",),
    "lora-4": ("transfer.lora(rank=4, alpha=8.0)",),
    "lora-16": ("transfer.lora(rank=16, alpha=32.0)",),
    "adapter": ("transfer.pfeiffer",),
    "full": ("transfer.full", "optimizer.learning_rate=5e-5"),
}
"""The usual answers to "which adapter suits my task"; training everything has a rate of its own."""

TURNS = "turns.jsonl"
"""In the run's folder: what every turn came to, as a run that goes on sees no more of those before."""

FIELD = re.compile(r"(model|optimizer)\.[\w.]+=")


@dataclasses.dataclass(frozen=True)
class Described:
    """A candidate in words.

    Attributes:
      methods: as on a command line, outermost first.
      changes: of the model, ``{"model.widths": "64 64"}``, and of numbers, ``{"optimizer.learning_rate": "1e-4"}``.
    """

    methods: tuple[str, ...]
    changes: Mapping[str, str]

    @property
    def words(self) -> list[str]:
        """The overrides that make an experiment of it."""
        changes = [word for path, value in self.changes.items() for word in (f"--{path}", *value.split())]
        return ["--method", *(self.methods or ("none",)), *changes]


def described(texts: Sequence[str], name: str) -> Described:
    """A candidate as words describe it: methods, and ``model.FIELD=VALUE`` or ``optimizer.NUMBER=VALUE``.

    Raises:
      ValueError: nothing is said, or its name deceives.

    Example:
      >>> described(["transfer.lora(rank=8)", "optimizer.learning_rate=1e-4"], "lora").words
      ['--method', 'transfer.lora(rank=8)', '--optimizer.learning_rate', '1e-4']
    """
    check_name("candidate", name)
    if not texts:
        raise ValueError(f'candidate {name!r} has no method; write --candidate {name} "transfer.lora(rank=8)"')
    changes = dict(text.split("=", 1) for text in texts if FIELD.match(text))
    return Described(tuple(text for text in texts if not FIELD.match(text)), changes)


def method_of(experiment: Experiment, candidates: Mapping[str, Described], controller: str) -> Callable[[Parts], Any]:
    """The method that chooses among them; a candidate that can't be made is left out with a warning.

    It is a `functools.partial`, whose arguments a run's folder keeps: other candidates are another run.
    """
    return functools.partial(_choosing, experiment, candidates, controller)


def _choosing(experiment: Experiment, candidates: Mapping[str, Described], controller: str, parts: Parts) -> Any:
    made = {}
    for name, one in candidates.items():
        try:
            made[name] = _candidate(experiment, one, parts, name)
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error.args[0] if error.args else error).split())
            warnings.warn(f"meta.choose goes on without candidate {name!r}: {reason}", stacklevel=2)
    spec = experiment.evaluation
    # Of one task: nothing to relate results to, and no start to go back to, which would be all states once more.
    return choose(made, controller, metric=spec.metric, mode=spec.mode, features=False, restart=False)


def _candidate(experiment: Experiment, one: Described, parts: Parts, name: str) -> Candidate:
    uses: tuple[MethodLike, ...] = methods_of(one.methods or ("none",), ())
    numbers = {path: float(value) for path, value in one.changes.items() if path.startswith("optimizer.")}
    words = [
        word
        for path, value in one.changes.items()
        if path.startswith("model.")
        for word in (f"--{path}", *value.split())
    ]
    if not words:
        return Candidate(with_new_head(build_methods(uses, parts), parts.model), numbers=numbers)
    changed = override(experiment, words)
    spec = changed.model.for_data(changed.data) if hasattr(changed.model, "for_data") else changed.model
    model = built(spec, jax.random.fold_in(parts.key, digest(name)), parts.outline)
    own = dataclasses.replace(parts, model=model)
    loss = experiment.loss_of(model, parts.example)
    return Candidate(with_new_head(build_methods(uses, own), model), loss, model.params, numbers)


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a turn came to: the step, who trained, its result, and why the next one was chosen."""

    step: int
    candidate: str
    value: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """What choosing came to.

    Attributes:
      chosen: the candidate to take.
      standings: of all, see `ft_jax.meta.choosing.standings`.
      turns: in order.
      left_out: sentences on candidates that could not be built.
      result: of the run.
    """

    chosen: str
    standings: list[dict[str, Any]]
    turns: list[Turn]
    left_out: list[str]
    result: Result


def decide(
    experiment: Experiment,
    candidates: Mapping[str, Described],
    controller: str = "ucb",
    turns: int | None = None,
    steps: int = 20,
    told: Callable[[str], None] = lambda line: None,
    command: Sequence[str] | None = None,
    out: Path | None = None,
) -> Choice:
    """Trains candidates in turns on an experiment's first task until one is known to suit it.

    Args:
      experiment: model, data, optimizer and the watched metric; its methods are replaced by the candidates'.
      candidates: by name.
      controller: ``"ucb"``, ``"thompson"``, ``"halving"`` or ``"mixture"``.
      turns: how many; two for each candidate by default.
      steps: of a turn, before its evaluation.
      told: called with a line on each turn.
      command: for the report of the run.
      out: the run folder; that of the experiment's name with ``-choice`` by default.

    Raises:
      ValueError: fewer than two candidates, no turn or no step, data without an evaluation set.
    """
    count = 2 * len(candidates) if turns is None else turns
    if len(candidates) < 2 or count < 1 or steps < 1:
        raise ValueError(
            f"there are {len(candidates)} candidates, {count} turns and {steps} steps a turn; give at least 2, 1 and 1"
        )
    spec = experiment.evaluation
    run = dataclasses.replace(
        experiment,
        name=f"{experiment.name}-choice",
        method=(method_of(experiment, candidates, controller),),
        budget=dataclasses.replace(experiment.budget, steps=count * steps, epochs=None, patience=None, tasks=1),
        evaluation=dataclasses.replace(spec, every=steps, keep_best=False),
        expect={},
    )
    folder = run.folder if out is None else out
    before: dict[str, int] = {}

    def look(moment: Moment) -> None:
        if moment.kind != "evaluation":
            return
        rows = {row["candidate"]: row["turns"] for row in standings(moment.state)}
        who = next((name for name, turns in rows.items() if turns > before.get(name, 0)), "?")
        before.update(rows)
        scores = moment.scores[spec.on or next(iter(moment.scores))]
        turn = Turn(moment.step, who, float(scores[spec.metric]), why(moment.state))
        with (folder / TURNS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(turn)) + "\n")
        told(f"turn {moment.step // steps} of {count}: {who}, {spec.metric} {turn.value:.4g}; next {turn.reason}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(run, run=folder, callbacks=(look,), quiet=True, command=command)
    left_out = sorted({str(one.message) for one in caught if "goes on without candidate" in str(one.message)})
    return Choice(recommended(result.state), standings(result.state), _turns(folder), left_out, result)


def _turns(folder: Path) -> list[Turn]:
    """All turns of a run, in order; of one that was taken again after an interruption the latest."""
    lines = (folder / TURNS).read_text(encoding="utf-8").splitlines() if (folder / TURNS).exists() else []
    told = [Turn(**json.loads(line)) for line in lines]
    return sorted({turn.step: turn for turn in told}.values(), key=lambda turn: turn.step)


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: which candidate suits it</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<h1>{{ name }}: which candidate suits it</h1>
<section class="card outcome"><div class="what">{{ chosen }}</div>
<p>{{ said }}</p>
<pre tabindex="0">{{ command }}</pre>
</section>
<div class="charts"><figure class="card"><figcaption>{{ metric }} after each turn, by candidate</figcaption>
{{ picture }}</figure></div>
<h3>Candidates</h3>
<div class="card scroll" tabindex="0" aria-label="candidates">
<table>
<thead><tr><th>candidate</th><th class="n">turns</th><th class="n">mean</th><th class="n">last</th><th>made of</th></tr>
</thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.candidate }}</th><td class="n">{{ row.turns }}</td><td class="n">{{ row.mean }}</td>
<td class="n">{{ row.last }}</td><td class="small">{{ row.made }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% for sentence in left_out %}<p class="soft">{{ sentence }}</p>{% endfor %}
<h3>Why, turn by turn</h3>
<ol>{% for turn in turns %}<li>{{ turn.candidate }}, {{ '%.4g' % turn.value }}. Next {{ turn.reason }}.</li>{% endfor %}
</ol>
</main>
</body>
</html>
"""


def write_choice(
    choice: Choice, name: str, metric: str, made: Mapping[str, Described], out: Path, command: str
) -> Path:
    """Writes the page of a choice, which needs no other file, and returns its path.

    Args:
      choice: what came of it.
      name: of the experiment.
      metric: by which.
      made: the candidates.
      out: the page.
      command: what trains the chosen one.
    """
    by_name = {label: [(turn.step, turn.value) for turn in choice.turns if turn.candidate == label] for label in made}
    rows = [
        {
            **row,
            "mean": "-" if row["mean"] is None else f"{row['mean']:.4g}",
            "last": f"{by_name[row['candidate']][-1][1]:.4g}" if by_name[row["candidate"]] else "-",
            "made": " ".join(made[row["candidate"]].words[1:]),
        }
        for row in choice.standings
    ]
    best = next(row for row in rows if row["candidate"] == choice.chosen)
    picture = line_chart(metric, [Series(label, points) for label, points in by_name.items() if points])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE).render(
        name=name,
        style=markupsafe.Markup(STYLE),
        chosen=choice.chosen,
        said=f"{best['turns']} of {len(choice.turns)} turns, {metric} {best['last']} after the last of them",
        command=command,
        metric=metric,
        picture=markupsafe.Markup(picture),
        rows=rows,
        left_out=choice.left_out,
        turns=choice.turns,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out
