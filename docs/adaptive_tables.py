"""Writes the numbers of docs/adaptive.md, and its picture, from the records: ``python docs/adaptive_tables.py``."""

from pathlib import Path

from marks import banded, claims, lines, several, table, write

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "adaptive.jsonl"
PAGE = HERE / "adaptive.md"
PICTURE = HERE / "adaptive.png"

STUDIES = {
    "watched": ("which metric a plateau watches, one positive in 30", "area under the ROC curve, test"),
    "spiked": ("five batches a thousand times too bright", "test accuracy"),
    "mixed": ("five sources of 1, 0.3, 0.15, 0.08 and 0.04 of their digits", "mean test accuracy of the sources"),
    "by_heart": ("300 digits, three labels in ten drawn anew", "test accuracy"),
}
"""What is varied, and what is measured."""


def tables() -> dict[str, str]:
    """What stands between the marks: where every variant ends, and what was claimed."""
    found = lines(RECORDS)
    rows = [
        [*STUDIES[line["study"]], line["variant"], several([curve[-1] for curve in line["curves"]], ".3f")]
        for line in found
        if "curves" in line
    ]
    return {"controlled": "\n\n".join([table(["what", "measured", "variant", "at the end"], rows), claims(found)])}


def draw() -> None:
    """The mean curve of every variant, with the range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [line for line in lines(RECORDS) if "curves" in line]
    figure, all_axes = plt.subplots(2, 2, figsize=(9, 6.8), layout="constrained")
    for axes, (study, (_, measured)) in zip(all_axes.flat, STUDIES.items(), strict=True):
        for line in found:
            if line["study"] == study:
                steps = [line["every"] * (at + 1) for at in range(len(line["curves"][0]))]
                banded(axes, steps, line["curves"], line["variant"])
        axes.set(title=measured, xlabel="step")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    write(PAGE, tables())
    draw()
