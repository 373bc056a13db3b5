"""Writes the tables of docs/streams.md, and its picture, from what was recorded: ``python docs/stream_tables.py``."""

import statistics
from pathlib import Path

from marks import claims, lines, several, table, write

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "incremental.jsonl"
PAGE = HERE / "streams.md"
PICTURE = HERE / "streams.png"

STREAMS = {
    "pairs": "Split MNIST: five pairs of digits, ten outputs from the start",
    "permuted": "Permuted MNIST: ten orders of the pixels, 1,000 digits each",
    "domains": "Sentiment: films, then products, editorials and tweets, from MiniLM's frozen mean embedding",
}
SCORES = ("average", "forgetting", "forward_transfer")


def tables() -> dict[str, str]:
    """What stands between the marks: each stream's table and what was claimed of it."""
    found, told = lines(RECORDS), []
    for stream, title in STREAMS.items():
        own = [line for line in found if line["stream"] == stream]
        rows = [
            [
                line["method"] + ("" if line["weight"] is None else f", weight {line['weight']:g}"),
                *(several(line[score], ".3f") for score in SCORES),
                f"{line['mib']:.2f}",
                f"{line['milliseconds']:.2f}",
                f"{line['operations']:.2f}",
            ]
            for line in own
            if "method" in line
        ]
        if rows:
            heading = ["method", *(score.replace("_", " ") for score in SCORES), "MiB", "ms a step", "operations"]
            told += [f"{title}:", table(heading, rows), claims(own)]
    return {"methods": "\n\n".join(told)}


def draw() -> None:
    """Average accuracy of every method after the last task, by stream, with the range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [line for line in lines(RECORDS) if "method" in line]
    streams = [name for name in STREAMS if any(line["stream"] == name for line in found)]
    figure, all_axes = plt.subplots(
        1, len(streams), figsize=(4 * len(streams), 3.4), layout="constrained", squeeze=False
    )
    for axes, stream in zip(all_axes[0], streams, strict=True):
        own = [line for line in found if line["stream"] == stream][::-1]
        means = [statistics.fmean(line["average"]) for line in own]
        spread = [[m - min(x["average"]) for m, x in zip(means, own, strict=True)]]
        spread += [[max(x["average"]) - m for m, x in zip(means, own, strict=True)]]
        axes.errorbar(means, [line["method"] for line in own], xerr=spread, fmt="o", color="#1f6f8b", ecolor="#d1495b")
        axes.grid(axis="x", alpha=0.3)
        axes.set(title=stream, xlabel="average accuracy after the last task")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    write(PAGE, tables())
    draw()
