"""What the multimodal experiments measure: ``python -m experiments.multimodal.table`` trains them and records it.

Each experiment of `NAMES` runs beside its baselines over its seeds; its rows and claims go to
``docs/results/multimodal.jsonl`` in place of its older ones. With names it runs those alone. ``python
docs/multimodal_tables.py`` then writes the page's tables.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..study import load, run, write_lines

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results" / "multimodal.jsonl"
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


def main() -> None:
    """Trains what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/multimodal-table"), help="where run folders go")
    arguments = parser.parse_args()
    for name in arguments.names or NAMES:
        record(name, arguments.out)


if __name__ == "__main__":
    main()
