"""Writes the tables of docs/meta.md from what was recorded, and draws its picture: ``python docs/meta_tables.py``."""

import statistics
from pathlib import Path

from marks import banded, claims, lines, several, table, write

HERE = Path(__file__).parent
PAGE, PICTURE = HERE / "meta.md", HERE / "regret.png"


def few_shot() -> str:
    """Accuracy on new digits by way and number of shots."""
    found = lines(HERE / "results" / "few_shot_digits.jsonl")
    rows = [one for one in found if "way" in one]
    if not rows:
        return "Nothing is recorded."
    shots = sorted({one["shots"] for one in rows})
    by = {(one["way"], one["shots"]): one for one in rows}
    ways = list(dict.fromkeys(one["way"] for one in rows))
    body = [[way, *(several(by[way, count]["accuracy"], ".3f") for count in shots)] for way in ways]
    tested = "; ".join(", ".join(map(str, digits)) for digits in rows[0]["new_digits"])
    about = (
        f"{rows[0]['data']}, {rows[0]['steps']:,} steps, mean and range over the seeds; the "
        f"digits that training never shows are, by seed: {tested}."
    )
    heading = ["", *(f"{count} {'shot' if count == 1 else 'shots'}" for count in shots)]
    return "\n\n".join([about, table(heading, body), claims(found)])


def mixed() -> str:
    """Accuracy of every way on every domain, as the new one."""
    found = lines(HERE / "results" / "mixed_adapters.jsonl")
    rows = [one for one in found if "way" in one]
    if not rows:
        return "Nothing is recorded."
    domains = list(rows[0]["accuracy"])
    body = [
        [
            one["way"],
            *(several(one["accuracy"][domain], ".3f") for domain in domains),
            f"{statistics.fmean(value for values in one['accuracy'].values() for value in values):.3f}",
        ]
        for one in rows
    ]
    weights = [
        [one["weights_for"], "; ".join(", ".join(f"{k} {v:.2f}" for k, v in its.items()) for its in one["weights"])]
        for one in found
        if "weights_for" in one
    ]
    seeds = len(rows[0]["accuracy"][domains[0]])
    return "\n\n".join(
        [
            f"Mean and range over {seeds} seeds.",
            table(["", *domains, "mean"], body),
            table(["new domain", "weights that were found, by seed"], weights),
            claims(found),
        ]
    )


def written() -> str:
    """Accuracy on held-out tasks by way and number of tasks that were trained on."""
    found = lines(HERE / "results" / "written_adapters.jsonl")
    rows = [one for one in found if "way" in one]
    if not rows:
        return "Nothing is recorded."
    counts = sorted({one["tasks"] for one in rows if one["tasks"]})
    by = {(one["way"], one["tasks"]): several(one["accuracy"], ".3f") for one in rows}
    ways = list(dict.fromkeys(one["way"] for one in rows))
    body = [[way, *(by.get((way, count), "") for count in counts), by.get((way, 0), "")] for way in ways]
    return "\n\n".join(
        [
            f"{rows[0]['data']}, {rows[0]['steps']:,} steps ({rows[0]['steps'] // 10:,} on a task by itself), mean and "
            f"range over {len(rows[0]['accuracy'])} seeds.",
            table(["", *(f"after {count} tasks" for count in counts), "after the task itself"], body),
            claims(found),
        ]
    )


def regret() -> str:
    """The candidates' rewards, and the regret of every way of choosing at the end."""
    found = lines(HERE / "results" / "mixed_stream.jsonl")
    if not found:
        return "Nothing is recorded."
    first, rows = found[0], [one for one in found if "way" in one]
    rewards = [[name, several(values, ".3f")] for name, values in first["candidates"].items()]
    ends = [[one["way"], several([curve[-1] for curve in one["regret"]], ".2f")] for one in rows]
    low, high = min(first["bound"]), max(first["bound"])
    limits = [
        ["UCB1's bound for these rewards", f"{low:,.0f} to {high:,.0f}"],
        ["the worst candidate in every task", several(first["worst"], ".1f")],
    ]
    return "\n\n".join(
        [
            f"{first['tasks']} tasks, {len(first['best'])} streams; the best fixed candidate was, by stream: "
            f"{', '.join(first['best'])}.",
            table(["candidate", "mean accuracy"], rewards),
            table(["chosen by", "regret after all tasks"], [*ends, *limits]),
            f"![regret by task](./{PICTURE.name})",
            claims(found),
        ]
    )


def draw() -> None:
    """Mean regret after every task with the range over the streams, by way of choosing."""
    found = [one for one in lines(HERE / "results" / "mixed_stream.jsonl") if "way" in one]
    if not found:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for one in found:
        banded(axes, range(1, len(one["regret"][0]) + 1), one["regret"], one["way"])
    axes.axhline(0, color="#8d99ae", linewidth=1)
    axes.set(xlabel="tasks", ylabel="regret against the best fixed candidate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})


def tables() -> dict[str, str]:
    """What stands between the marks of each name."""
    return {"few_shot": few_shot(), "mixed": mixed(), "written": written(), "regret": regret()}


if __name__ == "__main__":
    draw()
    write(PAGE, tables())
