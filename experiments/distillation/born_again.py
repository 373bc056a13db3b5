"""A network is born again: trained from scratch with what its like before it says, and again, and all of them fused.

Furlanello et al. 2018, arXiv:1805.04770, in small: every generation has the same shape, a start of its own and the same
150 labels of digits, and learns from the one before it beside the labels. Beside the ensemble of the generations stands
one of as many networks that were trained alone, which costs the same.

``python -m experiments.distillation.born_again --out docs/results/born_again.jsonl`` writes what each scores over five
seeds, and what was claimed. ``ft-jax run distillation/born_again`` trains the last generation, its ancestors before it.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ft_jax.ensemble import calibration, fusion
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use, fit
from ft_jax.training.predictions import Predictions, predictions
from ft_jax.training.specs import Images, Perceptron

from ..study import Claim, write_lines
from ..trained import Trained

GENERATIONS = 3
"""How often a network is born again."""
SEEDS = 5
MARGIN = 0.005
COLUMNS = ("accuracy", "log_likelihood", "brier", "ece")
FIRST, BOTH, ALONE = "generation 0", "generations fused", "as many alone, fused"


def alone(number: int, seed: int, steps: int = 400) -> Experiment:
    """The network with labels and no teacher; its start and the order of its batches are those of `number`."""
    return Experiment(
        name=f"distillation/born_again/{steps}-seed-{seed}/alone-{number}",
        model=Perceptron(image=(8, 8, 1), widths=(64,), classes=10),
        data=Images("digits", labelled=150),
        optimizer=OptimizerSpec("adam", learning_rate=5e-3, schedule="linear"),
        budget=Budget(steps=steps, batch_size=50),
        evaluation=EvaluationSpec(metric="accuracy", mode="max"),
        log_every=max(1, steps // 4),
        seed=100 * seed + number,
    )


def generation(number: int, seed: int = 0, steps: int = 400, runs: str = "runs") -> Experiment:
    """The network that learns from generation ``number - 1``; 0 has no teacher."""
    one = alone(number, seed, steps)
    if number == 0:
        return one
    teacher = Trained(generation(number - 1, seed, steps, runs), runs)
    method = (Use("distillation.logits", params=teacher, temperature=1.0, weight=1.0, hard_weight=1.0),)
    return dataclasses.replace(one, name=one.name.replace("alone", "generation"), method=method)


experiment = dataclasses.replace(generation(GENERATIONS), name="distillation/born_again")


def lineage(seed: int, generations: int, steps: int, runs: str) -> dict[str, dict[str, float]]:
    """What every generation, their ensemble and that of as many networks alone score, by name."""

    def told(one: Experiment) -> Predictions:
        return predictions(fit(one, run=Path(runs) / one.name, quiet=True), one)

    own = [told(generation(number, seed, steps, runs)) for number in range(generations + 1)]
    others = [own[0], *(told(alone(number, seed, steps)) for number in range(1, generations + 1))]
    found = {f"generation {number}": one.logits[0] for number, one in enumerate(own)}
    found |= {
        name: np.asarray(fusion.mean(np.concatenate([one.logits for one in several])))
        for name, several in ((BOTH, own), (ALONE, others))
    }
    return {name: dataclasses.asdict(calibration.scores(logits, own[0].labels)) for name, logits in found.items()}


def rows_of(lineages: Sequence[dict[str, dict[str, float]]]) -> list[dict]:
    """A line for each name: its scores by seed."""
    return [
        {"name": name, **{column: [round(float(one[name][column]), 4) for one in lineages] for column in COLUMNS}}
        for name in lineages[0]
    ]


def claims_of(rows: Sequence[dict]) -> list[Claim]:
    """That the last generation beats the first, as the paper finds, and that their ensemble beats every one of them."""
    mean = {row["name"]: float(np.mean(row["accuracy"])) for row in rows}
    born = [name for name in mean if name.startswith("generation ")]
    last, best = born[-1], max(born, key=mean.get)
    return [
        Claim(
            f"test accuracy of {last} {mean[last]:.4f} against {mean[FIRST]:.4f} of {FIRST}: better by "
            f"{mean[last] - mean[FIRST]:.4f}, at least {MARGIN} was claimed",
            mean[last] - mean[FIRST] >= MARGIN,
        ),
        Claim(
            f"test accuracy of all generations fused {mean[BOTH]:.4f} against {mean[best]:.4f} of the best of them, "
            f"{best}: more was claimed",
            mean[BOTH] > mean[best],
        ),
        Claim(
            f"test accuracy of all generations fused {mean[BOTH]:.4f} against {mean[ALONE]:.4f} of as many networks "
            "trained alone: more was claimed",
            mean[BOTH] > mean[ALONE],
        ),
    ]


def table(rows: Sequence[dict]) -> str:
    """Means over the seeds as a table in Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    return "\n".join(
        [*lines, *(f"| {row['name']} | {' | '.join(f'{np.mean(row[c]):.4f}' for c in COLUMNS)} |" for row in rows)]
    )


def main() -> None:
    """Prints the table and the claims and writes both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=GENERATIONS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", default="runs", help="the folder of the runs; finished ones are not trained again")
    parser.add_argument("--out", type=Path, default=Path("runs/born_again.jsonl"))
    options = parser.parse_args()
    rows = rows_of([lineage(seed, options.generations, options.steps, options.runs) for seed in range(options.seeds)])
    claims = claims_of(rows)
    print(f"mean of {options.seeds} seeds\n\n{table(rows)}\n")
    for claim in claims:
        print(f"{'met   ' if claim.met else 'MISSED'} {claim.text}")
    write_lines(options.out, [*rows, *map(dataclasses.asdict, claims)])


if __name__ == "__main__":
    main()
