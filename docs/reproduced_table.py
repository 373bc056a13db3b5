"""Writes the table of docs/reproduced.md from docs/results/reproduce.jsonl: ``python docs/reproduced_table.py``."""

from pathlib import Path

from ft_jax.training.reproduction import kept

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "reproduce.jsonl"
BEGIN, END = "<!-- table begins -->", "<!-- table ends -->"


def rows(told: dict) -> list[list[str]]:
    """The cells of a record: one line for every number, the first with the row's name and verdict."""
    seeds = f"seeds {', '.join(map(str, told['seeds']))}" if told["seeds"] else "nothing random"
    about = [f"`{told['name']}`: {told['title']}; {seeds}", f"**{told['verdict']}**"]
    lines = []
    for at, one in enumerate(told["findings"]):
        met = "met" if one["met"] else "**missed**"
        lines.append([*(about if at == 0 else ["", ""]), one["what"], one["paper"], one["shown"], one["asked"], met])
    return lines


def table() -> str:
    """The table in Markdown, and where each number is printed, how the setting differs, and what measured it."""
    records = kept(RECORDS)
    heading = ["row", "verdict", "number", "paper", "ours", "asked", ""]
    cells = [heading, ["---"] * len(heading), *(line for told in records.values() for line in rows(told))]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
    notes = []
    for told in records.values():
        differs = f" Differs: {told['difference'].rstrip('.')}." if told["difference"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        notes.append(f"- `{told['name']}`: {told['paper']}, {told['where']}.{differs} {told['date']}; {versions}.")
    return "\n".join([*lines, "", *notes])


def page(text: str) -> str:
    """The page with its table made anew."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    path = HERE / "reproduced.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
