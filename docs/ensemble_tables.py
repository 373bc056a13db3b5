"""Writes the tables of docs/ensembles.md from what was recorded: ``python docs/ensemble_tables.py``."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from marks import claims, lines, several, table, write

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE / "ensembles.md"

SETTINGS = {
    "digits": "Scikit-learn's digits, two hidden layers of 64",
    "mnist": "10,000 digits of MNIST, two hidden layers of 256",
}
"""The circle's settings by kind of data, in the order of the page."""

STAGES = ("accuracy", "log_likelihood", "brier", "ece")


def circle() -> str:
    """Every stage's scores and its cost beside one network's, by kind of data, and what was claimed."""
    told = []
    for kind, setting in SETTINGS.items():
        found = [line for line in lines(RESULTS / "circle.jsonl") if line["data"] == kind]
        stages = [line for line in found if "stage" in line]
        if not stages:
            continue
        rows = [
            [
                line["stage"],
                *(several(line[name], ".4f") for name in STAGES),
                *(f"{line[name][0]:.0f}" for name in ("trained", "networks")),
            ]
            for line in stages
        ]
        heading = ["stage", *(name.replace("_", "-") for name in STAGES), "networks trained", "networks asked"]
        told += [
            f"{setting}; {stages[0]['labelled']:,} images with labels, {stages[0]['count'][0]:,.0f} to answer, "
            f"{stages[0]['members']} members:",
            table(heading, rows),
            claims(found),
        ]
    return "\n\n".join(told)


def merged_domains() -> str:
    """Accuracy of every rule on every domain, the mean of the four first."""
    found = lines(RESULTS / "merged_domains.jsonl")
    ways = [line for line in found if "way" in line]
    if not ways:
        return ""
    domains = list(ways[0]["accuracy"])
    rows = [[line["way"], *_by_domain(line, domains)] for line in ways]
    return f"{table(['', 'all four', *domains], rows)}\n\n{claims(found)}"


def _by_domain(line, domains) -> list[str]:
    """The accuracy over all domains, and on each."""
    each = line["accuracy"]
    return [several(by_seed(each), ".3f"), *(several(each[name], ".3f") for name in domains)]


def own_tasks() -> str:
    """Every stage's accuracy by domain and its log-likelihood over them."""
    found = lines(RESULTS / "own_tasks.jsonl")
    stages = [line for line in found if "stage" in line]
    if not stages:
        return ""
    domains = list(stages[0]["accuracy"])
    rows = [
        [line["stage"], *_by_domain(line, domains), several(by_seed(line["log_likelihood"]), ".3f")] for line in stages
    ]
    return f"{table(['', 'all four', *domains, 'log-likelihood'], rows)}\n\n{claims(found)}"


def by_seed(accuracy: Mapping[str, Sequence[float]]) -> list[float]:
    """The mean over the domains of each seed."""
    return [statistics.fmean(values) for values in zip(*accuracy.values(), strict=True)]


def tables() -> dict[str, str]:
    """What stands between the marks of each name."""
    return {"circle": circle(), "merged_domains": merged_domains(), "own_tasks": own_tasks()}


if __name__ == "__main__":
    write(PAGE, tables())
