"""A sweep's page: the winner first, then what mattered, then every trial."""

import math
import warnings
from pathlib import Path

import jinja2
import markupsafe
import optuna

from ft_jax.training.report.page import STYLE
from ft_jax.training.sweeps.pictures import history, importances, parallel
from ft_jax.training.sweeps.sweep import Sweep
from ft_jax.training.sweeps.winner import winner
from ft_jax.tuning.search import SharedStudy

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: sweep</title>
<style>{{ style }} svg .fill { fill: var(--s0); stroke: none; }</style>
</head>
<body>
<main>
<h1>{{ name }}: sweep</h1>
<p class="soft">{{ doc }}</p>
{% if won %}
<section class="card outcome"><div class="what">{{ won_title }}</div>
<div class="values">{% for name, value in won.objectives.items() %}
<span class="value after"><b>{{ '%.4g' % value }}</b><span class="small soft">{{ name }}</span></span>{% endfor %}</div>
<dl>{% for path, value in won.values.items() %}<dt class="path">{{ path }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% if command %}<pre tabindex="0">{{ command }}</pre>{% endif %}
</section>
{% else %}<p>No trial has ended well yet.</p>{% endif %}
<p class="soft small">{{ account }}</p>
<div class="charts">
{% for title, picture in pictures if picture %}
<figure class="card"><figcaption>{{ title }}</figcaption>{{ picture|safe }}</figure>
{% endfor %}
</div>
<h3>Trials</h3>
<div class="card scroll" tabindex="0" aria-label="trials">
<table>
<thead><tr><th>trial</th><th>ended</th>{% for one in goals %}<th class="n">{{ one }}</th>{% endfor %}
{% for path in paths %}<th>{{ path }}</th>{% endfor %}<th>folds, or why</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.slot }}</th><td>{{ row.state }}</td>
{% for one in row.scores %}<td class="n">{{ one }}</td>{% endfor %}
{% for one in row.chosen %}<td>{{ one }}</td>{% endfor %}<td class="small">{{ row.note }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
</main>
</body>
</html>
"""


def write_sweep_report(sweep: Sweep, study: SharedStudy, out: Path, command: str = "") -> Path:
    """Writes the page of a sweep, as far as it is, and returns its path.

    Args:
      sweep: what is tried.
      study: its study.
      out: the page.
      command: what runs the winner.
    """
    goals = sweep.goals()
    trials = study.study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    won = winner(sweep, study.study)
    account = study.account(1 + max((trial.user_attrs.get("slot", -1) for trial in trials), default=-1))
    title, mode = goals[0]
    pairs = [(trial.params, trial.values[0]) for trial in done]
    by_order = [trial.values[0] if trial in done else None for trial in trials]
    pictures = [
        ("History: each trial and the best so far", history(by_order, mode, title)),
        ("Importance (PED-ANOVA)", importances(shares_of(study.study))),
        ("Parallel coordinates", parallel(pairs, sweep.axes, mode, title)),
    ]
    rows = [_row(trial, sweep) for trial in trials if trial.user_attrs.get("why") != "surplus"]
    if won and len(goals) > 1:
        said = f"The best {title} of a front of {len(won.front)} trials ({', '.join(map(str, won.front))}): "
    else:
        said = "The winner: "
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE).render(
        name=sweep.experiment.name,
        doc=sweep.experiment.doc,
        style=markupsafe.Markup(STYLE),
        won=won,
        won_title=f"{said}trial {won.slot}" if won else "",
        command=command,
        account=", ".join(f"{count} {state}" for state, count in account.items() if count),
        pictures=pictures,
        goals=[f"{name} ({mode})" for name, mode in goals],
        paths=list(sweep.axes),
        rows=rows,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def shares_of(study: optuna.Study) -> dict[str, float]:
    """Each field's importance for the first objective; empty where the trials are too few or too alike to tell."""
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(done) < 4 or len({trial.values[0] for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(study, target=lambda trial: trial.values[0])
        except (ValueError, RuntimeError):
            return {}
    return {name: share for name, share in found.items() if math.isfinite(share)}


def _row(trial: optuna.trial.FrozenTrial, sweep: Sweep) -> dict:
    folds = trial.user_attrs.get("folds")
    note = trial.user_attrs.get("why", "")
    if not note and folds:
        note = ", ".join(f"{values[0]:.4g}" for values in folds)
    if not note and trial.state == optuna.trial.TrialState.FAIL:
        note = "its worker stopped; taken up again"
    return {
        "slot": trial.user_attrs.get("slot", trial.number),
        "state": trial.state.name.lower(),
        "scores": [f"{value:.4g}" for value in trial.values or ()] or ["-"] * len(sweep.goals()),
        "chosen": [trial.params.get(path, "") for path in sweep.axes],
        "note": note,
    }
