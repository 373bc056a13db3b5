"""The winner of a sweep: its values, and an experiment file that runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from ft_jax.training.sweeps.sweep import Sweep, tokens


@dataclasses.dataclass(frozen=True)
class Winner:
    """The best trial.

    Attributes:
      slot: its number in the sweep.
      values: of the fields, by path.
      objectives: what it came to, by name.
      front: with several objectives, the slots of all trials that no other beats in everything; else its own.
    """

    slot: int
    values: Mapping[str, Any]
    objectives: Mapping[str, float]
    front: tuple[int, ...]

    def __str__(self):
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.objectives.items())
        return f"trial {self.slot}, {scores}: {' '.join(f'{path}={value}' for path, value in self.values.items())}"


def winner(sweep: Sweep, study: optuna.Study) -> Winner | None:
    """The best trial by the first objective, of the front where there are several; None where none has ended."""
    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not done:
        return None
    goals = sweep.goals()
    front = study.best_trials if len(goals) > 1 else done
    sign = -1.0 if goals[0][1] == "max" else 1.0
    best = min(front, key=lambda trial: (sign * trial.values[0], trial.number))
    return Winner(
        slot=best.user_attrs["slot"],
        values=best.params,
        objectives=dict(zip((name for name, _ in goals), best.values, strict=True)),
        front=tuple(trial.user_attrs["slot"] for trial in (front if len(goals) > 1 else [best])),
    )


FILE = '''"""{title}"""

from pathlib import Path

from ft_jax.cli.experiments import load
from ft_jax.training.overrides import override

experiment = override(
    load(Path({file!r})),
    [
{words}    ],
)
'''


def write_winner(sweep: Sweep, won: Winner, file: Path, out: Path, changes: tuple[str, ...] = ()) -> Path:
    """Writes an experiment file: the sweep's own experiment with the winner's values, to be run by ``ft-jax run``.

    Args:
      sweep: what was tried.
      won: its winner.
      file: that defines the sweep's experiment.
      out: the file to write.
      changes: words of overrides that the sweep's command had.
    """
    how = f"the mean of {sweep.folds} folds" if sweep.folds > 1 else "on the experiment's evaluation"
    scores = ", ".join(f"{name} {value:.4g}" for name, value in won.objectives.items())
    title = f"{sweep.experiment.name} as a sweep chose it: trial {won.slot}, {scores}, {how}."
    words = [*changes, *tokens({"name": f"{sweep.experiment.name}-winner", **won.values})]
    shown = "".join(f"        {word!r},\n" for word in words)
    out.write_text(FILE.format(title=title, file=str(Path(file).resolve()), words=shown), encoding="utf-8")
    return out
