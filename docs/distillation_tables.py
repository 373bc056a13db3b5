"""Writes the tables of docs/distillation.md from what was recorded: ``python docs/distillation_tables.py``."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from marks import claims, lines, several, table, write

HERE = Path(__file__).parent
PAGE = HERE / "distillation.md"
RESULTS, MEASURED = HERE / "results", HERE.parent / "benchmarks" / "results"


def cached_teacher() -> str:
    """Bytes on disk, and the newest rows of memory and seconds of both ways."""
    found = {(row["kind"], row.get("way")): row for row in lines(MEASURED / "cached_teacher.jsonl")}
    if ("disk", None) not in found:
        return "Nothing is recorded."
    disk = found["disk", None]
    told = [
        f"{disk['rows']} sentences of {disk['tokens']:,} tokens with loss take {disk['bytes'] / 2**10:,.0f} KiB at "
        f"{disk['top']} classes: {disk['bytes_a_token']:.0f} bytes a token, headers among them."
    ]
    held = {
        way: {name: found["memory", way][f"{name}_bytes"] for name in ("argument", "output", "temporary")}
        for way in ("live", "cached")
        if ("memory", way) in found
    }
    if len(held) == 2:
        whole = {way: sum(parts.values()) for way, parts in held.items()}
        rows = [
            [
                f"teacher {'in the step' if way == 'live' else 'cached'}",
                *(f"{parts[name] / 2**20:,.0f}" for name in ("argument", "temporary")),
                f"{whole[way] / 2**20:,.0f}",
                f"{whole[way] / whole['live']:.2f}",
            ]
            for way, parts in held.items()
        ]
        told.append(table(["", "parameters and state, MiB", "temporaries, MiB", "together, MiB", "of the first"], rows))
    taken = found.get(("seconds", None))
    if taken:
        (low, high), said = taken["ratio_range"], taken["divergence"]
        told.append(
            f"A step with the teacher in it takes {taken['ratio']:.2f} times ({low:.2f} to {high:.2f}) as long as one "
            "from the cache, on a CPU with other load. On the first batch the teacher in the step gives a divergence "
            f"of {said['live']:.4f} and the cache, which bounds it from below, {said['cached']:.4f}."
        )
    return "\n\n".join(told)


def shorter_minilm() -> str:
    """Size, latency and score of every model, and what was claimed."""
    found = lines(RESULTS / "shorter_minilm.jsonl")
    if not found:
        return "Nothing is recorded."
    rows = [
        [
            one["model"],
            str(one["layers"]),
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['latency'][0]:.2f}" + (f" ({one['latency'][1]:.2f} to {one['latency'][2]:.2f})"
                                          if len(set(one["latency"])) > 1 else ""),
            several(one["accuracy"], ".3f"),
        ]
        for one in found
        if "model" in one
    ]  # fmt: skip
    heading = ["", "layers", "million parameters", "latency", "accuracy"]
    return "\n\n".join([table(heading, rows), claims(found)])


def written(name: str, columns: Mapping[str, str]) -> str:
    """Scores of each way, what was claimed, and what each wrote.

    Args:
      name: of the file of results.
      columns: heading by score.
    """
    found = lines(RESULTS / f"{name}.jsonl")
    ways = [one for one in found if "way" in one]
    if not ways:
        return "Nothing is recorded."
    scores = [[one["way"], *(f"{one[score]:.3f}" for score in columns)] for one in ways]
    asked = [question for question, _ in ways[0]["texts"]]
    texts = [
        [f"*{cell(question)}*", *(cell(one["texts"][place][1]) for one in ways)] for place, question in enumerate(asked)
    ]
    return "\n\n".join([table(["", *columns.values()], scores), claims(found),
                         table(["", *(one["way"] for one in ways)], texts)])  # fmt: skip


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return " ".join(text.split()) or "(nothing)"


def self_taught() -> str:
    """SDFT beside plain fine-tuning."""
    return written("self_taught", {"new": "reviews", "old": "capitals"})


def gkd() -> str:
    """A student that is corrected on its own texts, beside two that are not."""
    return written("gkd", {"theirs": "along the teacher's texts", "own": "along its own"})


WAYS_OF_ULD = {
    "sorted": "all values, sorted",
    "top": "the 256 largest",
    "hybrid": "common tokens, and the rest sorted",
    "hybrid-top": "common tokens, and the rest's 256 largest",
}


def uld_ratio() -> str:
    """What a step with a teacher of another tokenizer takes beside both models' passes, the newest row of each way."""
    found = {row["way"]: row for row in lines(MEASURED / "another_tokenizer.jsonl")}
    if not found:
        return "Nothing is recorded."
    rows = [
        [
            said,
            f"{found[way]['ratio']:.2f} ({found[way]['ratio_range'][0]:.2f} to {found[way]['ratio_range'][1]:.2f})",
            f"{found[way]['ratio_to_student']:.2f}",
        ]
        for way, said in WAYS_OF_ULD.items()
        if way in found
    ]
    return table(["", "of both passes", "of the plain step alone"], rows)


def another_tokenizer() -> str:
    """A teacher with another tokenizer, beside plain training."""
    return written("another_tokenizer", {"held_out": "nats a byte"})


WAYS_OF_ANSWERING = {
    "inside": "inside the step",
    "beside": "beside it, on the host's turn",
    "ahead": "beside it, an update ahead",
}


def on_policy_ahead() -> str:
    """Seconds of an update by where the student's answers are made, the median of the rounds' medians."""
    found = {line["way"]: line["seconds"] for line in lines(RESULTS / "on_policy_ahead.jsonl")}
    if not found:
        return "Nothing is recorded."
    inside = statistics.median(found["inside"])
    rows = [
        [
            said,
            f"{statistics.median(found[way]):.3f} ({min(found[way]):.3f} to {max(found[way]):.3f})",
            f"{statistics.median(found[way]) / inside:.2f}",
        ]
        for way, said in WAYS_OF_ANSWERING.items()
    ]
    return table(["answers are made", "seconds an update", "of the first"], rows)


def tables() -> dict[str, str]:
    """What stands between the marks of each name."""
    parts = (cached_teacher, shorter_minilm, uld_ratio, another_tokenizer, gkd, on_policy_ahead, self_taught)
    return {part.__name__: part() for part in parts}


if __name__ == "__main__":
    write(PAGE, tables())
