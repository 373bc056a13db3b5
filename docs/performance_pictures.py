"""The pictures of docs/performance.md, from the lines in benchmarks/results."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from performance_rows import latest, lines

PICTURES = Path(__file__).parent / "performance"
H100_GIB = 79.1
"""What the driver gives of its memory."""

COLOURS = {"ours": "#1f6f8b", "peer": "#d1495b", "floor": "#8d99ae"}


def tidy(axes) -> None:
    """No box round a picture."""
    axes.spines[["top", "right"]].set_visible(False)


def draw() -> None:
    """All pictures whose cases have lines."""
    draw_rounding()
    draw_growth()
    draw_choices()
    draw_gradcache()
    draw_bars()


def draw_rounding() -> None:
    """Loss curves, and how far each is from float32."""
    rows = latest(lines("rounding"), "dtype", "forward", "learning_rate")
    rates = sorted({row["learning_rate"] for row in rows})
    if not rates:
        return
    figure, grid = plt.subplots(2, len(rates), figsize=(10, 5), sharex=True, layout="constrained", squeeze=False)
    styles = {
        ("float32", "two_pass"): "#2f2f2f",
        ("bfloat16", "two_pass"): COLOURS["ours"],
        ("bfloat16", "merged_backward"): COLOURS["floor"],
        ("bfloat16", "merged"): COLOURS["peer"],
    }
    for column, rate in enumerate(rates):
        runs = {(row["dtype"], row["forward"]): row for row in rows if row["learning_rate"] == rate}
        exact = runs["float32", "two_pass"]["losses"]
        steps = [index * runs["float32", "two_pass"]["every"] for index in range(len(exact))]
        for key, colour in styles.items():
            losses = runs[key]["losses"]
            grid[0, column].plot(steps, losses, color=colour, label=" ".join(key).replace("_", " "))
            grid[1, column].plot(steps, [a - b for a, b in zip(losses, exact, strict=True)], color=colour)
        grid[0, column].set(title=f"learning rate {rate:g}", ylabel="held-out loss" if column == 0 else None)
        grid[1, column].set(xlabel="step", ylabel="minus float32's" if column == 0 else None)
    grid[0, 0].legend(frameon=False)
    for axes in grid.flat:
        tidy(axes)
    _save(figure, "rounding")


def draw_growth() -> None:
    """Memory, operations and the most tokens a second against what is varied, as compiled for an H100."""
    rows = [row for row in latest(lines("growth"), "axis", "value", "compiled_for") if "kernel_floor_seconds" in row]
    titles = {
        "time": "tokens a sequence",
        "model": "parameters",
        "batch": "examples",
        "rank": "rank",
        "members": "members",
    }
    for axis, title in titles.items():
        points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row["value"])
        if not points:
            continue
        values = [row["value"] for row in points]
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
        state = [row["argument_bytes"] / 2**30 for row in points]
        total = [(row["argument_bytes"] + row["temporary_bytes"]) / 2**30 for row in points]
        left.plot(values, state, "o-", color=COLOURS["floor"], label="state and batch")
        left.plot(values, total, "o-", color=COLOURS["ours"], label="with temporaries")
        left.axhline(H100_GIB, color=COLOURS["peer"], lw=1, ls="--", label="an H100's")
        middle.plot(values, [row["flops"] / 1e12 for row in points], "o-", color=COLOURS["ours"], label="cost model")
        kernels = [row["kernel_flops"] / 1e12 for row in points]
        middle.plot(values, kernels, "x", color=COLOURS["peer"], label="products of the program")
        most = [row["tokens"] / row["kernel_floor_seconds"] for row in points]
        right.plot(values, most, "o-", color=COLOURS["ours"], label="if kernels ran at published rates")
        right.set_ylim(0, 1.25 * max(most))
        for axes, label in ((left, "GiB"), (middle, "TFLOP a step"), (right, "tokens a second at most")):
            axes.set(xscale="log", xlabel=title, ylabel=label)
            if axes is not right:
                axes.set(yscale="log")
            axes.set_xticks(values, [_short(value) for value in values])
            axes.minorticks_off()
            axes.legend(frameon=False, fontsize=8)
            tidy(axes)
        _save(figure, f"growth_{axis}")


def draw_choices() -> None:
    """Layers unrolled and in a scan by their number, a step by its chunks of logits, LoRA's forwards by examples."""
    rows = latest(lines("growth"), "axis", "value", "scan", "forward", "compiled_for")
    rows = [row for row in rows if "kernel_floor_seconds" in row]
    seconds = ("seconds to trace and compile", lambda row: row["trace_seconds"] + row["compile_seconds"])
    memory = ("GiB of temporaries", lambda row: row["temporary_bytes"] / 2**30)
    moved = ("GB moved a step", lambda row: row["kernel_bytes"] / 1e9)
    least = ("least ms a step", lambda row: row["kernel_floor_seconds"] * 1e3)
    an_example = ("least ms an example", lambda row: row["kernel_floor_seconds"] * 1e3 / row["value"])
    moved_an_example = ("GB moved an example", lambda row: row["kernel_bytes"] / 1e9 / row["value"])
    _choices("depth", "layers", rows, (seconds, memory, least), "scan", {False: "unrolled", True: "in a scan"})
    _choices("chunk", "time steps a chunk, 8 examples", rows, (moved, memory, least), "forward", {"auto": "LoRA"})
    names = {"two_pass": "two passes", "merged": "merged", "merged_backward": "merged backward", "auto": "auto"}
    _choices("forward", "examples", rows, (moved_an_example, memory, an_example), "forward", names)


def draw_gradcache() -> None:
    """A contrastive step whole and in micro-batches, by how often the batch holds what fits."""
    found = latest(lines("gradcache"), "kind", "size", "remat", "times", "micro_batches", "compiled_for")
    rows = [row for row in found if row["kind"] == "memory" and row["size"] == "vit-b-32" and row["remat"] == "none"]
    if not rows:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for whole, label, colour in ((True, "whole", COLOURS["peer"]), (False, "micro-batches", COLOURS["ours"])):
        own = [row for row in rows if (row["micro_batches"] == 1) == whole or row["times"] == 1]
        own = sorted(own, key=lambda row: row["times"])
        pairs = [row["batch"] for row in own]
        left.plot(pairs, [row["temporary_bytes"] / 2**30 for row in own], "o-", color=colour, label=label)
        right.plot(pairs, [row["flops"] / row["batch"] / 1e9 for row in own], "o-", color=colour, label=label)
    for axes, label in ((left, "GiB of temporaries"), (right, "GFLOP a pair")):
        axes.set(xscale="log", xlabel="pairs", ylabel=label)
        axes.set_xticks(pairs, [_short(value) for value in pairs])
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.minorticks_off()
        tidy(axes)
    left.legend(frameon=False, fontsize=8)
    _save(figure, "gradcache")


def _choices(axis: str, title: str, rows, panels, field: str, names: dict[Any, str]) -> None:
    """A panel for each of some quantities, a line for each value of a field."""
    points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row["value"])
    if not points:
        return
    figure, grid = plt.subplots(1, len(panels), figsize=(11, 3), layout="constrained")
    for axes, (label, of) in zip(grid, panels, strict=True):
        for value, colour in zip(names, (*COLOURS.values(), "#2f2f2f"), strict=False):
            own = [row for row in points if row[field] == value]
            style = "--" if value == "auto" and len(names) > 1 else "o-"
            axes.plot([row["value"] for row in own], [of(row) for row in own], style, color=colour, label=names[value])
        values = sorted({row["value"] for row in points})
        axes.set(xscale="log", xlabel=title, ylabel=label)
        axes.set_ylim(0, 1.08 * max(map(of, points)))
        axes.set_xticks(values, [_short(value) for value in values])
        axes.minorticks_off()
        tidy(axes)
    if len(names) > 1:
        grid[0].legend(frameon=False, fontsize=8)
    _save(figure, f"growth_{axis}")


def _short(value: float) -> str:
    """A count in three letters or so."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1024, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def draw_bars() -> None:
    """Ours, the peer and the floor, a picture for each case that has them."""
    pairs = [row for row in lines("throughput") if "peer" in row]
    _bars(
        "steps", "seconds a step", latest(pairs, "size", "method", "peer", "device", "batch"),
        lambda row: f"{row['size']}\n{row['method']}, {row['peer']}, {row['device']}",
        {"ours": "paired_seconds", "peer": "peer_seconds", "floor": "floor_seconds"},
    )  # fmt: skip
    _bars(
        "generation", "seconds for all prompts",
        latest((row for row in lines("generation") if "peer" in row), "size", "device", "batch"),
        lambda row: f"{row['size']}\n{row['batch'][0]} prompts, {row['device']}",
        {"ours": "seconds", "peer": "peer_seconds"},
    )  # fmt: skip
    _bars(
        "allocator", "seconds a step", latest(lines("allocator"), "size", "method"),
        lambda row: f"{row['size']}\n{row['method']}", {"ours, memory kept": "kept_seconds", "given back": "seconds"},
    )  # fmt: skip
    _bars(
        "populations", "seconds for a step of every member",
        latest(lines("populations"), "size", "members", "device", "batch"),
        lambda row: f"{row['size']}\n{row['members']} members, {row['device']}",
        {"ours, together": "together_seconds", "peer, in turn": "peer_seconds", "ours, in turn": "apart_seconds"},
    )  # fmt: skip
    _bars(
        "composition", "times what it is held against",
        latest(lines("composition"), "size", "method", "device", "batch"),
        lambda row: f"{row['method']}, {row['device']}\nagainst {row['beside']}",
        {"ours": lambda row: row["ratio"], "held against": lambda row: 1.0},
    )  # fmt: skip
    _bars(
        "compilation", "seconds", latest(lines("compilation"), "size", "method", "device"),
        lambda row: f"{row['size']}\n{row['method']}, {row['device']}",
        {"compiled cold": "cold_seconds", "from the cache": "cached_seconds", "traced": "trace_seconds"},
    )  # fmt: skip
    _bars(
        "pipeline", "seconds", latest(lines("pipeline"), "size", "device"),
        lambda row: f"{row['size']}\n{row['device']}",
        {
            "a step": "seconds_of_a_step", "making its batch": "seconds_to_make_a_batch",
            "waiting for it": lambda row: row["wait_seconds"]["median"],
        },
    )  # fmt: skip
    _bars(
        "loading", "peak beyond the parameters, in parts of the largest shard", latest(lines("loading"), "what"),
        lambda row: row["what"].replace("_", " "), {"ours": "share_of_largest_shard"},
    )  # fmt: skip


def _bars(name: str, unit: str, rows: list[dict[str, Any]], label, series: dict[str, Any]) -> None:
    """A bar for each of the series, a field or a function of the row, where the row has it."""
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.3 * (len(series) * len(rows) + 1)), layout="constrained")
    for offset, ((what, field), colour) in enumerate(zip(series.items(), COLOURS.values(), strict=False)):
        values = [field(row) if callable(field) else row.get(field) for row in rows]
        lengths = [value["median"] if isinstance(value, dict) else value or 0.0 for value in values]
        places = [place + 0.8 * ((offset + 0.5) / len(series) - 0.5) for place in range(len(rows))]
        axes.barh(places, lengths, 0.74 / len(series), color=colour, label=what)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set(xlabel=unit)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    if len(series) > 1:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series))
    tidy(axes)
    _save(figure, name)


def _save(figure, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=100, metadata={"Software": None})
    plt.close(figure)
