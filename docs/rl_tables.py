"""Writes the tables of docs/rl.md from what was recorded: ``python docs/rl_tables.py``."""

from pathlib import Path

from marks import lines, several, table, write

HERE = Path(__file__).parent
PAGE = HERE / "rl.md"

CHANGED = """### A changed environment

`python -m experiments.rl.changed --out docs/results/changed.jsonl`: three agents in one program; steps of the
environment, in all copies, until the mean of 100 held-out episodes first reaches the target, by seed; and that mean at
the end, in the new environment and in the old one. Return for CartPole, share of arrivals for the grid."""
PREFERENCES = """### Preferences

`python -m experiments.rl.preferences --out docs/results/preferences.jsonl`: a decoder of words from scratch, {pairs}
held-out pairs of a positive and a negative sentence of nearly one length, the mean of three seeds with the range. The
reward is each method's own (see the file); the divergence is from the policy that all began with, in nats a text; a
text is positive where naive Bayes says so, which is right of {judge:.0%} of held-out sentences."""
COUNTED = """### A GRPO update beside its passes

`ft-jax bench grpo`: products of matrices in the compiled programs, the update's by the sum of its passes'."""


def changed() -> str:
    """Steps and scores of every kind of agents, and what was claimed."""
    found = lines(HERE / "results" / "changed.jsonl")
    rows, last = [], None
    for one in [line for line in found if "kind" in line]:
        name = "" if one["change"] == last else f"{one['change']}, to {one['target']:g}"
        last = one["change"]
        steps = ", ".join("never" if at is None else f"{at:,}" for at in one["steps"]) if "steps" in one else ""
        rows.append([name, one["kind"], steps, several(one["new"]), several(one["old"])])
    claims = [f"- {'met' if one['met'] else '**missed**'}: {one['text']}" for one in found if "text" in one]
    return "\n\n".join(
        [CHANGED, table(["environment", "agents", "steps", "new", "old"], rows), "What was claimed:", "\n".join(claims)]
    )


def preferences() -> str:
    """The four methods beside the reference."""
    found = lines(HERE / "results" / "preferences.jsonl")
    if not found:
        return ""
    about = {"pairs": found[0]["pairs"], "judge": found[0]["judge"]}
    what = ("accuracy", "margin", "gain_accuracy", "mean_accuracy", "kl", "words", "positive")
    heading = ["", "accuracy", "margin", "by gain", "by mean", "divergence", "words", "positive"]
    rows = [[one["method"], *(several(one[name]) if name in one else "" for name in what)] for one in found]
    return f"{PREFERENCES.format(**about)}\n\n{table(heading, rows)}"


def counted() -> str:
    """The newest rows of the benchmark by method."""
    found = {one["method"]: one for one in lines(HERE.parent / "benchmarks" / "results" / "grpo.jsonl")}
    rows = []
    for one in found.values():
        passes = ", ".join(f"{name} {flops / 1e6:.1f}" for name, flops in one["passes"].items())
        rows.append([one["method"], f"{one['flops'] / 1e6:.1f}", passes, f"{one['ratio']:.3f}"])
    return f"{COUNTED}\n\n{table(['update', 'million operations', 'passes', 'ratio'], rows)}"


def tables() -> str:
    """All of the page."""
    return "\n\n".join(filter(None, [changed(), preferences(), counted()]))


if __name__ == "__main__":
    write(PAGE, tables())
