"""Rates × decays of LoRA on MiniLM over folds: all in one program against one run after another."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optuna

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Pretrained, Texts
from ft_jax.training.sweeps import Sweep, winner, work
from ft_jax.tuning.search import Search

from .case import Options

FOLDS = 3
GRID = {
    "optimizer.learning_rate": "3e-4..1e-2:log",
    "optimizer.weight_decay": "0.0..0.3",
}


def experiment(options: Options) -> Experiment:
    """LoRA on film reviews, short and few, as what is compared is time."""
    return Experiment(
        name="benchmarks/sweeps",
        model=Pretrained(MINILM, classes=2),
        data=Texts(("sentiment:movies",), length=options.time or 16, labelled=240),
        method=(Use("transfer.lora", rank=8, targets="attention", also=("*/head/*",)),),
        optimizer=OptimizerSpec("adamw", weight_decay=0.0),
        budget=Budget(steps=20, batch_size=options.batch or 8),
        evaluation=EvaluationSpec(metric="loss"),
    )


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row: seconds of both ways, the winners and how far scores are apart.

    ``--members`` is the number of rates and of decays squared, 16 by default. Each way is a sweep in a folder under
    runs/, which goes on where it was stopped: times are those of the trials, added up.
    """
    trials = options.members or 16
    points = round(trials**0.5)
    ways = {}
    for name, together in (("together", trials), ("apart", 1)):
        sweep = Sweep(
            experiment(options),
            GRID,
            search=Search("grid", points=points),
            folds=FOLDS,
            together=together,
            out=Path("runs") / "benchmarks" / f"sweeps-{trials}-{options.batch or 8}x{options.time or 16}" / name,
        )
        study = sweep.open()
        study.plan(None)
        if not work(sweep, told=lambda line: print(line, file=sys.stderr, flush=True)):
            raise KeyboardInterrupt
        done = [one for one in study.study.trials if one.state == optuna.trial.TrialState.COMPLETE]
        ended = [(one.datetime_complete - one.datetime_start).total_seconds() for one in done]
        # Members start and end together, so that one's time is all's.
        seconds = max(ended) if together > 1 else sum(ended)
        ways[name] = (seconds, winner(sweep, study.study), {one.user_attrs["slot"]: one.value for one in done})
    (ours, won, scores), (serial, alone, others) = ways["together"], ways["apart"]
    yield {
        "device": jax.devices()[0].device_kind,
        "trials": points**2,
        "folds": FOLDS,
        "steps": 20,
        "batch": [options.batch or 8, options.time or 16],
        "together_seconds": round(ours, 1),
        "apart_seconds": round(serial, 1),
        "ratio": round(serial / ours, 2),
        "winner_together": dict(won.values),
        "winner_apart": dict(alone.values),
        "same_winner": won.slot == alone.slot,
        "largest_score_difference": max(abs(scores[slot] - others[slot]) for slot in scores),
    }
