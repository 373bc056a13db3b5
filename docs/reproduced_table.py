"""Writes the table of docs/reproduced.md from docs/results/reproduce.jsonl: ``python docs/reproduced_table.py``."""

from pathlib import Path

import marks

from ft_jax.training.reproduction import kept

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "reproduce.jsonl"
PAGE = HERE / "reproduced.md"


def rows(told: dict) -> list[list[str]]:
    """The cells of a record: one line for every number, the first with the row's name and verdict."""
    seeds = f"seeds {', '.join(map(str, told['seeds']))}" if told["seeds"] else "nothing random"
    about = [f"`{told['name']}`: {told['title']}; {seeds}", f"**{told['verdict']}**"]
    lines = []
    for at, one in enumerate(told["findings"]):
        met = "met" if one["met"] else "**missed**"
        lines.append([*(about if at == 0 else ["", ""]), one["what"], one["paper"], one["shown"], one["asked"], met])
    return lines


def tables() -> str:
    """The table, and where each number is printed, how the setting differs, and what measured it."""
    records = kept(RECORDS)
    heading = ["row", "verdict", "number", "paper", "ours", "asked", ""]
    whole = marks.table(heading, [line for told in records.values() for line in rows(told)])
    notes = []
    for told in records.values():
        differs = f" Differs: {told['difference'].rstrip('.')}." if told["difference"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        notes.append(f"- `{told['name']}`: {told['paper']}, {told['where']}.{differs} {told['date']}; {versions}.")
    return "\n".join([whole, "", *notes])


if __name__ == "__main__":
    marks.write(PAGE, tables())
