"""What the multimodal experiments measured: ``python -m experiments.multimodal.table`` trains, records, writes tables.

Each experiment of `NAMES` runs beside its baselines over its seeds; its rows and claims go to
``docs/results/multimodal.jsonl`` in place of its older ones, and the tables between the marks in docs/multimodal.md are
made of that file. With names it runs those alone, with ``--tables`` none.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..study import load, run, write_lines

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "multimodal.jsonl"
PAGE = DOCS / "multimodal.md"
PICTURES = DOCS / "multimodal"

NAMES = (
    "scene_captions", "minilm_captions", "three_modalities", "lora_on_clip", "kept_zero_shot", "distilled_clip",
    "scene_writing",
)  # fmt: skip
"""In the order of the page."""


def lines() -> list[dict[str, Any]]:
    """What is recorded."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def record(name: str, out: Path) -> None:
    """Runs an experiment and puts its lines in place of its older ones."""
    results, claims = run(f"multimodal/{name}", out)
    module = load(f"multimodal/{name}")
    rows = [{"experiment": name, "kind": "row", **row} for row in module.rows(results)]
    if hasattr(module, "pictures"):
        module.pictures(results, PICTURES)
    said = [{"experiment": name, "kind": "claim", "text": claim.text, "met": claim.met} for claim in claims]
    every = [line for line in lines() if line["experiment"] != name] + rows + said
    every.sort(key=lambda line: NAMES.index(line["experiment"]))
    write_lines(RESULTS, every)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a way and a column a measure: the mean over the seeds, and their range.

    Example:
      >>> print(table([{"way": "all", "measure": "accuracy", "values": [0.5, 0.7]}]))
      | | accuracy |
      | --- | --- |
      | all | 0.600 (0.500 to 0.700) |
    """
    measures, ways = (list(dict.fromkeys(row[field] for row in rows)) for field in ("measure", "way"))
    cells = {(row["way"], row["measure"]): row["values"] for row in rows}
    told = [["", *(name.replace("_", " ") for name in measures)], ["---"] * (1 + len(measures))]
    told += [[way, *(_shown(cells.get((way, name), ())) for name in measures)] for way in ways]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in told)


def _shown(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def page(text: str, recorded: Sequence[Mapping[str, Any]]) -> str:
    """The page with each experiment's table, and what it claimed, between its marks."""
    for name in dict.fromkeys(line["experiment"] for line in recorded):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        own = [line for line in recorded if line["experiment"] == name]
        told = [table([line for line in own if line["kind"] == "row"]), ""]
        told += [f"- {'' if line['met'] else '**Not so:** '}{line['text']}." for line in own if line["kind"] == "claim"]
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = "\n".join([before + begin, "", *told, "", end + after])
    return text


def main() -> None:
    """Trains what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/multimodal-table"), help="where run folders go")
    parser.add_argument("--tables", action="store_true", help="write the page from what is recorded, and run nothing")
    arguments = parser.parse_args()
    for name in () if arguments.tables else arguments.names or NAMES:
        record(name, arguments.out)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), lines()), encoding="utf-8")


if __name__ == "__main__":
    main()
