"""Writes docs/performance.md and its pictures from the lines in benchmarks/results: ``python docs/performance.py``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
PICTURES = HERE / "performance"
TEXT = HERE / "performance_text.md"
H100_GIB = 79.1
"""What the driver gives of its memory."""

COLOURS = {"ours": "#1f6f8b", "peer": "#d1495b", "floor": "#8d99ae"}

TARGETS = (
    ("LoRA step", "≥ 1.6× the strongest peer, ≥ 65% of the limit", "throughput", {"method": "lora", "remat": "none"}),
    ("full fine-tuning step", "≥ 1.15× the strongest peer, ≥ 70% of the limit", "throughput", {"method": "full"}),
    (
        "LoRA, full rematerialisation",
        "≥ 1.9× the peer's, in less memory",
        "throughput",
        {"method": "lora", "remat": "full"},
    ),
    ("QLoRA step", "base ≤ 0.6 bytes a parameter", "throughput", {"method": "qlora"}),
    ("16 LoRA trials in one program", "≥ 7.5× the peer one after another", "populations", {"members": 16}),
    ("DPO step", "≤ 1.1× its passes", "composition", {"method": "dpo"}),
    ("distillation step", "≤ 1.45× the plain step", "composition", {"method": "distillation"}),
    ("distillation alone", "≤ 1.45× the plain step", "composition", {"method": "soft"}),
    ("composed step", "≤ 1.05× its parts added up", "composition", {"method": "composed"}),
    ("generation, batch 64", "≥ 3× the peer", "generation", {}),
    ("compilation", "≤ 40 s cold, ≤ 3 s cached", "compilation", {}),
    ("pipeline", "device idle ≤ 2% of a step", "pipeline", {}),
)
"""What, the target on a GPU, the case and the fields of its rows at the shape ``llama-1b``."""


def lines(case: str) -> list[dict[str, Any]]:
    """The rows of a case, oldest first."""
    file = RESULTS / f"{case}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def latest(rows: Iterable[dict[str, Any]], *fields: str) -> list[dict[str, Any]]:
    """The newest row of each combination of `fields`."""
    found = {tuple(json.dumps(row.get(field)) for field in fields): row for row in rows}
    return list(found.values())


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A table in Markdown."""
    told = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in told)


def gigabytes(count: float) -> str:
    """Bytes as GiB."""
    return f"{count / 2**30:.2f} GiB"


def targets() -> str:
    """The table of targets: what a GPU measured, or that none has."""
    told = []
    for what, target, case, fields in TARGETS:
        rows = [row for row in lines(case) if row["device"] != "cpu" and row.get("size") == "llama-1b"]
        rows = [row for row in rows if all(row.get(name) == value for name, value in fields.items())]
        told.append((what, target, _state(rows[-1]) if rows else "unmeasured: no GPU yet"))
    return table(("what", "target", "measured"), told)


def _state(row: dict[str, Any]) -> str:
    parts = []
    if "ratio" in row:
        parts.append(f"{row['ratio']:.2f}× {row.get('beside') or row.get('peer', 'one after another')}")
    if "share_of_matrix_rate" in row:
        parts.append(f"{row['share_of_matrix_rate']:.0%} of the matrix rate")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    if "cold_seconds" in row:
        parts.append(f"{row['cold_seconds']:.0f} s cold, {row['cached_seconds']:.1f} s cached")
    if "wait_share" in row:
        parts.append(f"{row['wait_share']:.1%} waiting")
    return f"{', '.join(parts)} ({row['device']})"


def paired() -> str:
    """Pairs with the peer on whatever device ran them."""
    rows = latest((row for row in lines("throughput") if "peer" in row), "size", "method", "peer", "device", "batch")
    told = [
        (
            row["size"], row["method"], " × ".join(map(str, row["batch"])), row["peer"], row["device"],
            f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})",
            f"{row['cpu_ratio']:.2f}", f"{row['loss']:.4f} / {row['peer_loss']:.4f}", f"{row['gap']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    head = (
        "shape",
        "step",
        "batch",
        "peer",
        "device",
        "peer's seconds / ours",
        "busy seconds, peer's / ours",
        "loss ours / peer's",
        "gap to the floor",
    )
    return table(head, told) if told else "No pairs are recorded."


def ahead() -> str:
    """Sharded steps compiled for TPUs."""
    told = [
        (
            row["size"], row["topology"], " × ".join(f"{axis} {size}" for axis, size in row["mesh"].items()),
            " × ".join(map(str, row["batch"])), gigabytes(row["argument_bytes"]), gigabytes(row["temporary_bytes"]),
            f"{row['flops_per_chip'] / 1e12:.1f}", f"{row['trace_seconds']:.0f} + {row['compile_seconds']:.0f}",
        )
        for row in latest(lines("aot"), "size", "topology", "method")
        if "kernels" not in row
    ]  # fmt: skip
    head = (
        "shape",
        "topology",
        "mesh",
        "batch",
        "state a chip",
        "temporaries a chip",
        "TFLOP a chip",
        "trace + compile, s",
    )
    return table(head, told) if told else "Nothing is recorded."


def hopper() -> str:
    """Steps compiled for an H100."""
    told = [
        (
            f"{row['size']}, {row['chips']} × H100",
            row["method"] if row["forward"] == "auto" else f"{row['method']}, {row['forward']}",
            row["remat"], " × ".join(map(str, row["batch"])), gigabytes(row["argument_bytes"]),
            gigabytes(row["temporary_bytes"]), f"{row['flops_per_chip'] / 1e12:.0f}",
            f"{row['kernel_bytes'] / 1e9:.0f}", f"{row['kernel_floor_seconds'] * 1e3:.0f}", row["attention_kernels"],
            f"{row['compile_seconds']:.0f}",
        )
        for row in latest(lines("aot"), "size", "topology", "method", "forward", "remat")
        if "kernels" in row
    ]  # fmt: skip
    head = (
        "shape",
        "step",
        "remat",
        "batch",
        "state",
        "temporaries",
        "TFLOP a chip",
        "GB moved",
        "least ms",
        "fused attentions",
        "compile, s",
    )
    return table(head, told) if told else "Nothing is recorded."


def rounding() -> str:
    """Final losses of the runs with a rounded merged weight."""
    rows = latest(lines("rounding"), "dtype", "forward", "learning_rate")
    by_rate: dict[float, dict[str, float]] = {}
    for row in rows:
        by_rate.setdefault(row["learning_rate"], {})[f"{row['dtype']} {row['forward']}"] = row["final"]
    names = ("float32 two_pass", "bfloat16 two_pass", "bfloat16 merged_backward", "bfloat16 merged")
    told = [(f"{rate:g}", *(f"{finals[name]:.4f}" for name in names)) for rate, finals in sorted(by_rate.items())]
    return table(("learning rate", *(name.replace("_", " ") for name in names)), told)


def plain(case: str, head: tuple[str, ...], cells, having: str = "size") -> str:
    """The newest rows of a case, of those that have a field, as a table."""
    rows = (row for row in lines(case) if having in row)
    told = [cells(row) for row in latest(rows, "size", "method", "device", "members", "batch")]
    return table(head, told) if told else "Nothing is recorded."


def tidy(axes) -> None:
    """No box round a picture."""
    axes.spines[["top", "right"]].set_visible(False)


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
    """Layers unrolled and in a scan against their number, and a step against the size of its chunks of logits."""
    rows = latest(lines("growth"), "axis", "value", "scan", "compiled_for")
    rows = [row for row in rows if "kernel_floor_seconds" in row]
    seconds = ("seconds to trace and compile", lambda row: row["trace_seconds"] + row["compile_seconds"])
    memory = ("GiB of temporaries", lambda row: row["temporary_bytes"] / 2**30)
    moved = ("GB moved a step", lambda row: row["kernel_bytes"] / 1e9)
    least = ("least ms a step", lambda row: row["kernel_floor_seconds"] * 1e3)
    names = {False: "unrolled", True: "in a scan"}
    _choices("depth", "layers", rows, (seconds, memory, least), names)
    _choices("chunk", "time steps a chunk, 8 examples", rows, (moved, memory, least), {False: "LoRA"})


def _choices(axis: str, title: str, rows, panels, names: dict[bool, str]) -> None:
    """A panel for each of some quantities, a line for each kind of layers."""
    points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row["value"])
    if not points:
        return
    figure, grid = plt.subplots(1, len(panels), figsize=(11, 3), layout="constrained")
    for axes, (label, of) in zip(grid, panels, strict=True):
        for scan, colour in zip(names, COLOURS.values(), strict=False):
            own = [row for row in points if row["scan"] == scan]
            axes.plot([row["value"] for row in own], [of(row) for row in own], "o-", color=colour, label=names[scan])
        values = sorted({row["value"] for row in points})
        axes.set(xscale="log", xlabel=title, ylabel=label)
        axes.set_ylim(bottom=0)
        axes.set_xticks(values, [_short(value) for value in values])
        axes.minorticks_off()
        tidy(axes)
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


def _bars(name: str, unit: str, rows: list[dict[str, Any]], label, series: dict[str, str]) -> None:
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.9 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        for offset, ((what, field), colour) in enumerate(zip(series.items(), COLOURS.values(), strict=False)):
            value = row[field]
            length = value["median"] if isinstance(value, dict) else value
            axes.barh(place + 0.26 * (offset - 1), length, 0.24, color=colour, label=what if place == 0 else None)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set(xlabel=unit)
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series))
    tidy(axes)
    _save(figure, name)


def _save(figure, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=100, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Fills the tables into the text and draws."""
    draw_rounding()
    draw_growth()
    draw_choices()
    draw_bars()
    filled = {
        "targets": targets(),
        "paired": paired(),
        "composed": plain(
            "composition",
            ("shape", "step", "batch", "device", "takes, times", "what"),
            lambda row: (
                row["size"], row["method"], " × ".join(map(str, row["batch"])), row["device"],
                f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})", row["beside"],
            ),
        ),
        "aot": ahead(),
        "hopper": hopper(),
        "rounding": rounding(),
        "compilation": plain(
            "compilation",
            ("shape", "step", "device", "trace, s", "compile cold, s", "from the cache, s"),
            lambda row: (
                row["size"], row["method"], row["device"],
                *(f"{row[name]:.1f}" for name in ("trace_seconds", "cold_seconds", "cached_seconds")),
            ),
        ),
        "allocator": plain(
            "allocator",
            ("shape", "step", "pages cleared a step, left / kept", "peak, left / kept", "seconds, left / kept"),
            lambda row: (
                row["size"], row["method"], f"{row['page_faults']:,.0f} / {row['kept_page_faults']:,.0f}",
                f"{gigabytes(row['peak_bytes'])} / {gigabytes(row['kept_peak_bytes'])}", f"{row['ratio']:.2f}",
            ),
        ),
        "generation": plain(
            "generation",
            ("shape", "prompts", "new tokens", "device", "equal tokens", "peer's seconds / ours"),
            lambda row: (
                row["size"], " × ".join(map(str, row["batch"])), row["new"], row["device"],
                f"{row['equal_tokens']:.0%}", f"{row['ratio']:.2f}",
            ),
            having="peer",
        ),
        "pipeline": plain(
            "pipeline",
            ("shape", "device", "making a batch, ms", "step, ms", "waiting", "longest log line, ms"),
            lambda row: (
                row["size"], row["device"], f"{row['seconds_to_make_a_batch'] * 1e3:.1f}",
                f"{row['seconds_of_a_step'] * 1e3:.0f}", f"{row['wait_share']:.2%}",
                f"{row['log_seconds']['max'] * 1e3:.2f}",
            ),
        ),
        "populations": plain(
            "populations",
            (
                "shape", "members", "device", "one after another / together", "largest difference of losses",
                "the peer's, one after another / together",
            ),
            lambda row: (
                row["size"], row["members"], row["device"], f"{row['ratio']:.2f}",
                f"{row['largest_loss_difference']:.1e}",
                f"{row['peer_ratio']:.2f} ({row['peer']})" if "peer" in row else "",
            ),
        ),
    }  # fmt: skip
    text = TEXT.read_text(encoding="utf-8")
    for name, told in filled.items():
        text = text.replace("{{" + name + "}}", told)
    shown = [line for line in text.splitlines() if not line.startswith("![") or (HERE / _picture(line)).exists()]
    (HERE / "performance.md").write_text("\n".join(shown) + "\n", encoding="utf-8")


def _picture(line: str) -> str:
    """The file that a Markdown line shows."""
    return line[line.rindex("(") + 1 : line.rindex(")")]


if __name__ == "__main__":
    main()
