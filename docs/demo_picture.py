"""Draws docs/demo.png from the demo's runs: ``make demo && .venv/bin/python docs/demo_picture.py``."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"task": "#1f6f8b", "backbone": "#d1495b", "adaptive.uncertainty": "#8d99ae"}
PHASES = {"before": "before", "head_only": "head only", "after": "composition"}


def main() -> None:
    """Reads ``metrics.jsonl`` and ``summary.json`` of the tuned run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/demo/transfer/sentiment/tuned-seed-0"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("demo.png"))
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((options.run / "summary.json").read_text(encoding="utf-8"))
    train = [line for line in lines if line["kind"] == "train"]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(2, 1), layout="constrained")
    for term, colour in COLOURS.items():
        left.plot([line["step"] for line in train], [line[term] for line in train], color=colour, label=term)
    left.set(xlabel="step", ylabel="term of the loss", title=" ∘ ".join(summary["composition"]))
    left.legend(frameon=False)

    scores = {label: summary["scores"][phase]["movies"]["accuracy"] for phase, label in PHASES.items()}
    bars = right.bar(list(scores), list(scores.values()), color=["#c9cfd6", "#8d99ae", "#1f6f8b"])
    right.bar_label(bars, fmt="%.3f")
    right.set(ylim=(0.4, 1), title="accuracy on held-out reviews")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
