"""Processor time of every law: ``python docs/laws.py`` writes docs/laws.md from laws_text.md."""

import argparse
import collections
import datetime
import json
import time
from pathlib import Path

import jax

import ft_jax
from ft_jax.testing import laws, separate
from ft_jax.testing.comparing import rounding
from ft_jax.testing.quick import compile_quickly
from ft_jax.testing.subject import subject

DOCS = Path(__file__).parent
SAMPLE = (
    "incremental.ewc",
    "transfer.lora",
    "transfer.uda",
    "distillation.logits",
    "meta.maml",
    "rl.dpo",
    "tuning.population",
    "attention.head_gates",
)
"""Methods of seven families, cheap and dear ones."""


def seconds(found, names, layers: int) -> dict[str, float]:
    """Processor time of each law a method, the mean over `names`; what all share is warm."""
    spent = collections.Counter()
    for place, name in enumerate(["transfer.l2_sp", *names]):
        for law in found:
            began = time.process_time()
            law(subject(name, layers))
            spent[law.__name__] += (time.process_time() - began) * (place > 0) / len(names)
    return dict(spent)


def table(before: dict[str, dict], after: dict[str, float], alone: dict[str, float]) -> list[str]:
    """The rows of the page."""
    was = {law: sum(before["seconds"][old] for old in olds) for law, olds in before["held by"].items()}
    rows = ["| law | before | `make test` | `make laws` |", "| --- | ---: | ---: | ---: |"]
    cell = lambda times, law: f"{times[law]:.2f}" if law in times else ""  # noqa: E731
    for law in {**after, **alone}:
        words = law.replace("_", " ")
        rows.append(f"| {words} | {cell(was, law)} | {cell(after, law)} | {cell(alone, law)} |")
    sums = (f"{sum(one.values()):.1f}" for one in (before["seconds"], after, alone))
    return [*rows, "| **all** | " + " | ".join(f"**{one}**" for one in sums) + " |"]


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=SAMPLE)
    parser.add_argument("--out", type=Path, default=DOCS / "laws.md")
    arguments = parser.parse_args()
    compile_quickly()
    jax.config.update("jax_disable_most_optimizations", True)
    after = seconds(laws.LAWS, arguments.methods, 1)
    with rounding(10.0):  # as `make laws` allows networks of two layers
        alone = seconds((*laws.LAWS, *separate.SEPARATE), arguments.methods, 2)
    before = json.loads((DOCS / "results" / "laws_before.json").read_text())
    page = (DOCS / "laws_text.md").read_text()
    told = {
        "table": "\n".join(table(before, after, alone)),
        "methods": ", ".join(f"`{name}`" for name in arguments.methods),
        "date": str(datetime.date.today()),
        "count": str(len(ft_jax.catalogue)),
        "ratio": f"{sum(before['seconds'].values()) / sum(after.values()):.1f}",
        "total": f"{sum(after.values()):.1f}",
        "minutes": f"{140 * sum(after.values()) / 120:.1f}",
    }
    for field, value in told.items():
        page = page.replace("{{" + field + "}}", value)
    arguments.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
