"""Writes docs/performance.md and its pictures from the lines in benchmarks/results: ``python docs/performance.py``."""

from pathlib import Path
from typing import Any

import performance_pictures
from performance_rows import latest, lines

HERE = Path(__file__).parent
TEXT = HERE / "performance_text.md"

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
    ("distillation, full", "≤ 1.45× the full step", "composition", {"method": "full+distillation"}),
    ("composed step", "≤ 1.05× its parts added up", "composition", {"method": "composed"}),
    ("generation, batch 64", "≥ 3× the peer", "generation", {}),
    ("compilation", "≤ 40 s cold, ≤ 3 s cached", "compilation", {}),
    ("pipeline", "device idle ≤ 2% of a step", "pipeline", {}),
)
"""What, the target on a GPU, the case and the fields of its rows at the shape ``llama-1b``."""


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
            f"{row['size']}, {row['chips']} × H100" + (f", {row['members']} members" if row.get("members") else ""),
            row["method"] if row["forward"] == "auto" else f"{row['method']}, {row['forward']}",
            row["remat"], " × ".join(map(str, row["batch"])), gigabytes(row["argument_bytes"]),
            gigabytes(row["temporary_bytes"]), rounded(row["flops_per_chip"] / 1e12),
            rounded(row["kernel_bytes"] / 1e9), rounded(row["kernel_floor_seconds"] * 1e3), row["attention_kernels"],
            f"{row['compile_seconds']:.0f}",
        )
        for row in latest(with_members(lines("aot")), "size", "topology", "method", "forward", "remat", "members")
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


def with_members(rows):
    """Rows that don't say so are of a plain step."""
    return [{"members": 0, **row} for row in rows]


def rounded(value: float) -> str:
    """Whole numbers, and two digits of what is smaller than one."""
    return f"{value:.0f}" if value >= 1 else f"{value:.2g}"


def gradcache() -> str:
    """Contrastive steps whole and in micro-batches."""
    rows = latest(lines("gradcache"), "kind", "size", "remat", "times", "micro_batches", "compiled_for")
    rows = [row for row in rows if row["kind"] == "memory" and row["size"] == "vit-b-32"]
    alone = {(row["remat"], row["times"]): row for row in rows if row["micro_batches"] == 1}
    told = [
        (
            row["batch"], row["micro_batches"], gigabytes(row["temporary_bytes"]),
            f"{row['temporary_bytes'] / alone[row['remat'], row['times']]['temporary_bytes']:.2f}",
            f"{row['flops'] / 1e12:.2f}", f"{row['flops'] / alone[row['remat'], row['times']]['flops']:.3f}",
        )
        for row in rows
    ]  # fmt: skip
    head = ("pairs", "micro-batches", "temporaries", "of the whole batch's", "TFLOP a step", "of the whole batch's")
    return table(head, told) if told else "Nothing is recorded."


def gradcache_seconds() -> str:
    """How long a step in micro-batches takes, in a sentence."""
    rows = latest(lines("gradcache"), "kind", "size", "times", "device")
    told = [
        f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}) for {row['batch']} pairs in "
        f"{row['micro_batches']} micro-batches"
        for row in rows
        if row["kind"] == "seconds"
    ]
    return "; ".join(told) if told else "nothing was measured"


def rounding() -> str:
    """Final losses of the runs with a rounded merged weight."""
    rows = latest(lines("rounding"), "dtype", "forward", "learning_rate")
    by_rate: dict[float, dict[str, float]] = {}
    for row in rows:
        by_rate.setdefault(row["learning_rate"], {})[f"{row['dtype']} {row['forward']}"] = row["final"]
    names = ("float32 two_pass", "bfloat16 two_pass", "bfloat16 merged_backward", "bfloat16 merged")
    told = [(f"{rate:g}", *(f"{finals[name]:.4f}" for name in names)) for rate, finals in sorted(by_rate.items())]
    return table(("learning rate", *(name.replace("_", " ") for name in names)), told)


def half_precision() -> str:
    """Final losses of full fine-tuning in half precision, and what its remedies cost."""
    told = [
        (
            row["run"].replace("_", " "), f"{row['before']:.3f}", f"{row['final']:.3f}",
            f"{row['bytes_a_parameter']:.0f}", f"{1e3 * row['step_seconds']:.0f} ms",
        )
        for row in latest(lines("half_precision"), "run")
    ]  # fmt: skip
    return table(("run", "loss before", "after", "bytes a parameter", "a step on a CPU"), told)


def plain(case: str, head: tuple[str, ...], cells, having: str = "size") -> str:
    """The newest rows of a case, of those that have a field, as a table."""
    rows = (row for row in lines(case) if having in row)
    told = [cells(row) for row in latest(rows, "size", "method", "device", "members", "batch")]
    return table(head, told) if told else "Nothing is recorded."


def main() -> None:
    """Fills the tables into the text and draws."""
    performance_pictures.draw()
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
        "gradcache": gradcache(),
        "gradcache_seconds": gradcache_seconds(),
        "rounding": rounding(),
        "half_precision": half_precision(),
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
