"""The circle: networks trained apart on few labels, their predictions fused, one network trained on the fusion.

The network of the last stage is of the members' size. It sees no label: all training images, and what the fused members
say of them.

``python -m experiments.ensemble.back_to_backbone`` prints what each stage scores and costs, over three seeds; with
``--data mnist:PATH.npz`` (or ``--data mnist``, from TFDS) on MNIST. ``--out docs/results/circle.jsonl`` records it, for
``python docs/ensemble_tables.py``. ``ft-jax run ensemble/back_to_backbone`` trains the
last stage alone, its teachers before it.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core import Outputs, merge, parameters
from ft_jax.core.members import member
from ft_jax.ensemble import calibration, fusion
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use, fit
from ft_jax.training.predictions import predictions
from ft_jax.training.specs import Images, Perceptron

from ..study import Claim, write_lines

SIZES = {"digits": ((8, 8, 1), (64, 64), 400, 300), "mnist": ((28, 28, 1), (256, 256), 1500, 2000)}
"""Image, widths, steps and labelled images by kind of data."""


@dataclasses.dataclass(frozen=True)
class Fused:
    """The members of an experiment as one model whose logits are the log of their mean probability.

    Attributes:
      experiment: what trains the members in one program.
      folder: where its run is kept.
    """

    experiment: Experiment
    folder: str = "runs"

    def build(self, key: jax.Array):
        """The trained members."""
        result = fit(self.experiment, run=Path(self.folder) / self.experiment.name, quiet=True)
        count = jax.tree.leaves(result.state.params)[0].shape[0]
        several = [
            merge(parameters(member(result.state, index), result.composition)["model"]) for index in range(count)
        ]
        return self._model(result.model, jax.tree.map(lambda *leaves: jnp.stack(leaves), *several))

    def outline(self, key: jax.Array):
        """The members untrained, of the same shapes."""
        model = self.experiment.model.build(key)
        count = next(filter(None, map(_members, self.experiment.method)))
        return self._model(model, jax.tree.map(lambda leaf: jnp.stack([leaf] * count), model.params))

    @staticmethod
    def _model(model, params):
        def apply(params, batch, key=None):
            logits = jax.vmap(lambda own: model.apply(own, batch, None).logits)(params)
            fused = fusion.mean(logits)
            return Outputs(hidden=fused, unembedding=jnp.eye(fused.shape[-1]))

        return dataclasses.replace(model, apply=apply, params=params)


def _members(use: Any) -> int:
    """How many members a method makes; 0 where it makes none."""
    if use.name == "tuning.population":
        return len(next(iter(use.options["numbers"].values())))
    return use.options["count"] if use.name == "ensemble.members" else 0


def stages(
    address: str = "digits", members: int = 10, seed: int = 0, runs: str = "runs", labelled: int | None = None
) -> dict[str, Experiment]:
    """The three trainings: one network, the members, and the network that learns from their fusion.

    The first two have `labelled` images; the last one has all, no labels, and what the fusion says of them.
    """
    kind = address.partition(":")[0]
    if kind not in SIZES:
        raise ValueError(f"there is no circle on {address!r}; use digits, mnist or mnist:path/to.npz")
    image, widths, steps, few = SIZES[kind]
    labelled = labelled or few
    name = f"ensemble/back_to_backbone-stages/{kind}-{labelled}-{members}-seed-{seed}"
    one = Experiment(
        name=f"{name}/one",
        model=Perceptron(image=image, widths=widths, classes=10),
        data=Images(address, labelled=labelled),
        optimizer=OptimizerSpec("adam", learning_rate=2e-3),
        budget=Budget(steps=steps, batch_size=64),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
        log_every=steps // 4,
        seed=seed,
    )
    own = (Use("ensemble.members", count=members, fusion=None), Use("ensemble.own_start"))
    many = dataclasses.replace(one, name=f"{name}/members", method=own)
    taught = Use("distillation.logits", params=Fused(many, runs), temperature=1.0, weight=1.0, hard_weight=None)
    backbone = dataclasses.replace(one, name=f"{name}/backbone", data=Images(address), method=(taught,))
    return {"one": one, "members": many, "backbone": backbone}


experiment = dataclasses.replace(stages()["backbone"], name="ensemble/back_to_backbone")


Rows = dict[str, dict[str, float]]
"""Stage to column to number."""


def circle(address: str, members: int, seed: int, runs: str, labelled: int | None = None) -> Rows:
    """Every stage's scores on the evaluation set and its cost: seconds of its own run, networks trained, and asked."""
    rows: Rows = {}
    found, seconds = {}, {}
    for stage, one in stages(address, members, seed, runs, labelled).items():
        result = fit(one, run=Path(runs) / one.name, quiet=True)
        seconds[stage] = result.summary["seconds"]
        found[stage] = predictions(result, one)

    def row(logits, labels, seconds, asked, learned):
        told = dataclasses.asdict(calibration.scores(logits, labels))
        return {**told, "seconds": seconds, "trained": learned, "networks": asked}

    labels = found["members"].labels
    rows["one network"] = row(found["one"].logits[0], labels, seconds["one"], 1, 1)
    alone = [row(logits, labels, seconds["members"] / members, 1, 1) for logits in found["members"].logits]
    rows["a member, on average"] = {name: float(np.mean([one[name] for one in alone])) for name in alone[0]}
    for way in ("mean", "vote", "product"):
        fused = np.asarray(fusion.FUSIONS[way](found["members"].logits))
        rows[f"fused by {way}"] = row(fused, labels, seconds["members"], members, members)
    rows["one network, from the fusion"] = row(found["backbone"].logits[0], labels, seconds["backbone"], 1, members + 1)
    return rows


COLUMNS = {
    "accuracy": ".4f",
    "log_likelihood": ".4f",
    "brier": ".4f",
    "ece": ".4f",
    "seconds": ".0f",
    "trained": ".0f",
    "networks": ".0f",
}
"""The table's columns and how a number is written in each."""


def table(circles: list[Rows]) -> str:
    """Means over the seeds as a table in Markdown."""
    lines = [f"| stage | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    for stage in circles[0]:
        means = {column: np.mean([one[stage][column] for one in circles]) for column in COLUMNS}
        lines.append(f"| {stage} | " + " | ".join(format(means[name], kind) for name, kind in COLUMNS.items()) + " |")
    return "\n".join(lines)


def claims_of(circles: list[Rows], most: float) -> list[Claim]:
    """That the fusion's log-likelihood is at most `most` times its members', and that one network learns of it."""

    def mean(stage, column="log_likelihood"):
        return float(np.mean([one[stage][column] for one in circles]))

    alone, fused, back = (mean(s) for s in ("a member, on average", "fused by mean", "one network, from the fusion"))
    kept = (back - alone) / (fused - alone)
    ratio = fused / alone
    first = f"log-likelihood fused {fused:.4f}, of a member {alone:.4f}: ratio {ratio:.2f}, at most {most} was claimed"
    second = f"one network from the fusion {back:.4f}: keeps {kept:.0%} of the gain, at least 30% was claimed"
    return [Claim(first, ratio <= most), Claim(second, kept >= 0.3)]


def lines(data: str, members: int, labelled: int, circles: list[Rows], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """What is recorded: a line a stage with its numbers by seed, and a line a claim, each with the kind of data."""
    kind, columns = data.partition(":")[0], (*COLUMNS, "count")
    return [
        {
            "data": kind,
            "members": members,
            "labelled": labelled,
            "stage": stage,
            **{column: [one[stage][column] for one in circles] for column in columns},
        }
        for stage in circles[0]
    ] + [{"data": kind, **dataclasses.asdict(claim)} for claim in claims]


def record(path: Path, new: Sequence[dict[str, Any]]) -> None:
    """Puts lines in place of the older ones of their kind of data."""
    kinds = {line["data"] for line in new}
    old = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    every = sorted([line for line in old if line["data"] not in kinds] + list(new), key=lambda line: line["data"])
    write_lines(path, every)


def main() -> None:
    """Prints the table and the claims; exits non-zero where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist or mnist:path/to.npz")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labelled", type=int, help="images with labels; 300 digits or 2000 of MNIST by default")
    parser.add_argument("--runs", default="runs", help="the folder of the runs; finished ones are not trained again")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, where this kind of data's are replaced")
    options = parser.parse_args()
    circles = [
        circle(options.data, options.members, seed, options.runs, options.labelled) for seed in range(options.seeds)
    ]
    print(f"{options.members} members, mean of {options.seeds} seeds, {circles[0]['one network']['count']:.0f} "
          f"examples\n\n{table(circles)}\n")  # fmt: skip
    found = claims_of(circles, 0.9 if options.data == "digits" else 0.6)
    for claim in found:
        print(f"{'met   ' if claim.met else 'MISSED'} {claim.text}")
    if options.out is not None:
        labelled = options.labelled or SIZES[options.data.partition(":")[0]][3]
        record(options.out, lines(options.data, options.members, labelled, circles, found))
    raise SystemExit(not all(claim.met for claim in found))


if __name__ == "__main__":
    main()
