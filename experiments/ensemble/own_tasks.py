"""The circle with a task for each member: four networks learn a domain each in one program, one from their fusion.

The networks read what MiniLM, frozen, says of a sentence, and tell whether it is positive. Every member sees the
labels of one domain alone (films, products, editorials, tweets: `ft_jax.ensemble.own_task` under a population). Their
predictions are fused, and one network of a member's size learns from the fusion, on sentences of all domains and
without a label. Beside it: a network that has all labels.

``ft-jax run ensemble/own_tasks`` trains the last stage, its teachers before it, with the report of a run. ``python -m
experiments.ensemble.own_tasks --out docs/results/own_tasks.jsonl`` measures all stages over three seeds and records
them, for ``python docs/ensemble_tables.py``.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.data.sentiment import DOMAINS
from ft_jax.ensemble import calibration, fusion
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use, fit
from ft_jax.training.own_data import Mixture
from ft_jax.training.predictions import predictions
from ft_jax.training.specs import Perceptron

from ..sentences import embedded
from ..study import Claim, tell
from .back_to_backbone import Fused

MOST, LENGTH = 600, 24
"""Sentences of a domain's split, and tokens of a sentence."""

OWN, OTHERS = "a member, on its own domain", "a member, on all"
BACK, LABELS = "one network, from the fusion", "one network, all labels"


@dataclasses.dataclass(frozen=True)
class Sentences:
    """One domain's sentences as MiniLM's mean hidden states.

    Attributes:
      domain: of `DOMAINS`.
      folder: that keeps what was embedded.
    """

    domain: str
    folder: str = "runs/ensemble/own_tasks-sentences"

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, test = (self._examples(split) for split in ("train", "test"))
        batches = data.batches(train, feed.batch_size, seed=feed.seed)
        held = data.evaluation_batches(test, feed.batch_size)
        return (Task(self.domain, batches, {self.domain: held}, len(train)),)

    def _examples(self, split: str) -> data.Dataset:
        x, labels = embedded(self.domain, split, MOST, LENGTH, Path(self.folder))
        return data.Dataset({"images": (x * 10).astype(np.float32)[:, None, :, None], "labels": labels})


def stages(seed: int = 0, runs: str = "runs") -> dict[str, Experiment]:
    """The trainings: the members in one program, one network from their fusion, one from all labels."""
    sources = tuple(Sentences(domain) for domain in DOMAINS)
    name, tasks = f"ensemble/own_tasks-stages/seed-{seed}", len(sources)
    each = Use("tuning.population", numbers={"ensemble.own_task.task": list(range(tasks))})
    members = Experiment(
        name=f"{name}/members",
        model=Perceptron(image=(1, 384, 1), widths=(64,), classes=2),
        data=Mixture(sources, together=True),
        method=(each, Use("ensemble.own_task", tasks=tasks)),
        optimizer=OptimizerSpec("adam", learning_rate=1e-3),
        budget=Budget(steps=150, batch_size=32 * tasks),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
        log_every=50,
        seed=seed,
    )
    taught = Use("distillation.logits", params=Fused(members, runs), temperature=1.0, weight=1.0, hard_weight=None)
    back = dataclasses.replace(members, name=f"{name}/backbone", method=(taught,))
    labels = dataclasses.replace(members, name=f"{name}/labels", method=())
    return {"members": members, BACK: back, LABELS: labels}


experiment = dataclasses.replace(stages()[BACK], name="ensemble/own_tasks")

Rows = dict[str, dict[str, dict[str, float]]]
"""Stage to domain to number by name."""


def measured(seed: int, runs: str) -> Rows:
    """Accuracy and log-likelihood of every stage on every domain's held-out sentences."""
    rows: Rows = {}
    made = stages(seed, runs)
    results = {name: fit(one, run=Path(runs) / one.name, quiet=True) for name, one in made.items()}
    for place, domain in enumerate(DOMAINS):
        said = {name: predictions(results[name], one, on=domain) for name, one in made.items()}
        members, labels = said["members"].logits, said["members"].labels
        score = [_scores(one, labels) for one in members]
        found = {OWN: score[place], OTHERS: {name: float(np.mean([x[name] for x in score])) for name in score[0]}}
        found |= {f"fused by {way}": _scores(rule(members), labels) for way, rule in fusion.FUSIONS.items()}
        found |= {name: _scores(said[name].logits[0], labels) for name in (BACK, LABELS)}
        for stage, numbers in found.items():
            rows.setdefault(stage, {})[domain] = numbers
    return rows


def _scores(logits: Any, labels: np.ndarray) -> dict[str, float]:
    told = calibration.scores(np.asarray(logits), labels)
    return {"accuracy": told.accuracy, "log_likelihood": told.log_likelihood}


def claims(seeds: Sequence[Rows]) -> list[Claim]:
    """That fusing helps over domains, and that one network keeps it."""

    def mean(stage, name="accuracy"):
        return float(np.mean([one[name] for rows in seeds for one in rows[stage].values()]))

    fused, one, others = mean("fused by mean"), mean(BACK), mean(OTHERS)
    return [
        Claim(
            f"accuracy over the domains fused by mean {fused:.3f}, of a member on all {others:.3f}: better by "
            f"{fused - others:.3f}, at least 0.01 was claimed",
            fused - others >= 0.01,
        ),
        Claim(
            f"one network from the fusion {one:.3f}, fused by mean {fused:.3f}: worse by {fused - one:.3f}, at most "
            "0.01 was claimed",
            fused - one <= 0.01,
        ),
    ]


def lines(seeds: Sequence[Rows]) -> list[dict[str, Any]]:
    """What is recorded: a line a stage with each domain's numbers by seed, and a line a claim."""
    told = [
        {
            "stage": stage,
            **{
                name: {domain: [rows[stage][domain][name] for rows in seeds] for domain in DOMAINS}
                for name in ("accuracy", "log_likelihood")
            },
        }
        for stage in seeds[0]
    ]
    return [*told, *(dataclasses.asdict(claim) for claim in claims(seeds))]


def main() -> None:
    """Measures, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", default="runs", help="the folder of the runs; finished ones are not trained again")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    found = [measured(seed, options.runs) for seed in range(options.seeds)]
    tell(lines(found), options.out)
    raise SystemExit(not all(claim.met for claim in claims(found)))


if __name__ == "__main__":
    main()
