"""Runs an experiment beside its baselines over several seeds and checks what its file claims."""

import dataclasses
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ft_jax.training import Experiment, Result, fit

TUNED = "tuned"
"""The experiment's own runs among the results."""

Results = Mapping[str, Sequence[Result]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of an experiment and whether the runs bear it out.

    Attributes:
      text: the statement with the numbers measured.
      met: whether it holds.
    """

    text: str
    met: bool


def beats(
    results: Results, measure: Callable[[Result], float], over: str, margin: float, what: str, label: str = TUNED
) -> Claim:
    """Claims that the mean of `measure` over the seeds of `label` is higher by `margin` than that of `over`."""
    ours, theirs = ([measure(result) for result in results[name]] for name in (label, over))
    gap = float(np.mean(ours) - np.mean(theirs))
    text = (
        f"{what} {np.mean(ours):.3f} against {np.mean(theirs):.3f} of {over}, over {len(ours)} "
        f"{'seed' if len(ours) == 1 else 'seeds'}: better by {gap:.3f}, at least {margin:g} was claimed"
    )
    return Claim(text, gap >= margin)


def after(result: Result, metric: str = "accuracy") -> float:
    """A metric at the end, averaged over the evaluation sets."""
    return float(np.mean([np.mean(scores[metric]) for scores in result.scores["after"].values()]))


def best_of(tried: Iterable[float], score: Callable[[float], float]) -> float | None:
    """The number of which the score is highest, the first of several; None where there are none to try.

    Example:
      >>> best_of((1.0, 10.0, 100.0), lambda weight: -abs(weight - 9)), best_of((), abs)
      (10.0, None)
    """
    return max(tried, key=score, default=None)


def by_seed(variant: Experiment, metric: str, count: int) -> dict[str, list[Any]]:
    """What an experiment came to, a number a seed: a metric before and after, by step, and wall seconds.

    Args:
      variant: with one evaluation set; its run folders are not kept.
      metric: of its evaluations.
      count: seeds, 0 and on.
    """
    found: dict[str, list[Any]] = {"before": [], "after": [], "by_step": [], "seconds": []}
    for seed in range(count):
        curve: list[tuple[int, float]] = []

        def look(moment, curve=curve):
            (scores,) = moment.scores.values()
            curve.append((moment.step, round(float(np.mean(scores[metric])), 4)))

        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            result = fit(dataclasses.replace(variant, seed=seed), run=run, callbacks=[look], quiet=True)
        (before,) = result.scores["before"].values()
        found["before"].append(round(float(np.mean(before[metric])), 4))
        found["after"].append(round(after(result, metric), 4))
        found["by_step"].append(sorted(set(curve)))
        found["seconds"].append(round(time.perf_counter() - begin, 1))
    return found


def write_claims(path: Path, claims: Mapping[str, Sequence[Claim]]) -> None:
    """One JSON line a claim, by experiment."""
    lines = [{"experiment": name, **dataclasses.asdict(claim)} for name, found in claims.items() for claim in found]
    write_lines(path, lines)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """A file of results: one JSON line a record; its folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def tell(lines: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Prints records as JSON, and writes them to a file where there is one."""
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
    if out is not None:
        write_lines(out, lines)


def load(name: str) -> ModuleType:
    """The module of ``family/name``."""
    return importlib.import_module(f"{__package__}.{name.replace('/', '.')}")


def run(
    name: str, out: Path = Path("runs"), quiet: bool = True, seeds: int | None = None
) -> tuple[Results, list[Claim]]:
    """Trains the experiment and its baselines at each of its seeds; its expectations and claims.

    Args:
      name: ``family/name``, a module with ``experiment`` and perhaps ``baselines``, ``seeds`` and ``claims``.
      out: where run folders go, ``out/name/seed-0``.
      quiet: no progress lines.
      seeds: how many; as many as the module says by default.
    """
    module = load(name)
    seeds = range(seeds or getattr(module, "seeds", 1))
    variants: Mapping[str, Experiment] = {TUNED: module.experiment, **getattr(module, "baselines", {})}
    results = {
        label: [
            fit(
                dataclasses.replace(variant, seed=seed),
                run=out / name / folder(label, seed),
                command=("python", "-m", "experiments.tour", name),
                quiet=quiet,
            )
            for seed in seeds
        ]
        for label, variant in variants.items()
    }
    claims = [Claim(str(outcome), outcome.met) for result in results[TUNED] for outcome in result.outcomes]
    if hasattr(module, "claims"):
        claims += module.claims(results)
    return results, claims


def folder(label: str, seed: int) -> str:
    """The run folder of a variant, such as ``head-only-seed-0``."""
    return f"{label.replace(' ', '-')}-seed-{seed}"
