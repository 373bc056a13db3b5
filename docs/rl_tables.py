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
ARITHMETIC = """### Arithmetic with a verifiable reward

`python -m experiments.rl.arithmetic --out docs/results/arithmetic.jsonl`: a decoder of 133,000 weights is shown 150
batches of sums of numbers below 50, then its only teacher is whether an answer is right; {steps} updates, each of
{prompts} prompts with {samples} answers. The share of {held_out} sums held out of both that the likeliest answer gets
right, mean of three seeds with the range, each with a network and supervised steps of its own. The seconds are of all
three seeds with evaluations and compiling, on one core of a machine with other load."""
GRID = """### A navigation grid

`python -m experiments.rl.grid --out docs/results/grid.jsonl`: four rooms, places and goals at random; PPO in 64 copies,
{updates} updates; the share of {held_out} held-out episodes that arrive, of which {target:.0%} are asked for.
`rl.adjust` lowers the weight of the entropy where an evaluation falls short, and goes back to the best parameters after
a bad turn."""
SPEED = """### Steps a second

`taskset -c 1 ft-jax bench environments --peer gymnasium gymnasium-sync gymnax rejax --peer-python PYTHON`, where PYTHON
has them: CartPole in so many copies on one core of a CPU, `gymnasium` in numpy at once and `gymnasium-sync` copy by
copy. Acting takes random actions; learning is PPO from acting to the updated network. Each was measured in turns with
its peer; steps a second and ratios are by the seconds that a process was busy, for the machine had other load, the
median of {pairs} pairs with the range."""
COUNTED = """### A GRPO update beside its passes

`ft-jax bench grpo --size small --batch 4`: products of matrices in the compiled programs, and the seconds for which the
process was busy, the update's by the sum of its passes' of the same turn; median and range of 8 turns on a CPU."""


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


def arithmetic() -> str:
    """The policy gradients, before and after."""
    found = lines(HERE / "results" / "arithmetic.jsonl")
    if not found:
        return ""
    middle = len(found[0]["by_step"][0]) // 2 - 1
    at = found[0]["by_step"][0][middle][0]
    rows = [
        [
            one["method"],
            *(several(part) for part in (one["before"], [curve[middle][1] for curve in one["by_step"]], one["after"])),
            f"{sum(one['seconds']):.0f}",
        ]
        for one in found
    ]
    heading = ["", "after supervised steps", f"after {at} updates", "in the end", "seconds"]
    return f"{ARITHMETIC.format(**found[0])}\n\n{table(heading, rows)}"


def grid() -> str:
    """Success by seed."""
    found = lines(HERE / "results" / "grid.jsonl")
    rows = [[str(seed), *(f"{x:.3g}" for x in pair)] for one in found for seed, pair in enumerate(_pairs(one))]
    return f"{GRID.format(**found[0])}\n\n{table(['seed', 'before', 'in the end'], rows)}" if found else ""


def _pairs(one):
    return zip(one["before"], one["after"], strict=True)


def speed() -> str:
    """The newest row of each kind, number of copies and peer."""
    found = {
        (one["kind"], one["copies"], one["peer"]): one
        for one in lines(HERE.parent / "benchmarks" / "results" / "environments.jsonl")
        if one["peer"]
    }
    if not found:
        return ""
    rows = [
        [
            one["kind"],
            f"{one['copies']:,}",
            f"{one['steps_per_second']:,.0f}",
            f"{one['peer']} {one['versions'][one['peer'].partition('-')[0]]}",
            f"{one['peer_steps_per_second']:,.0f}",
            f"{one['ratio']['median']:.3g} ({one['ratio']['min']:.3g} to {one['ratio']['max']:.3g})",
        ]
        for one in found.values()
    ]
    heading = ["", "copies", "ours, steps a second", "beside", "its", "ours over it"]
    return f"{SPEED.format(**next(iter(found.values())))}\n\n{table(heading, rows)}"


def counted() -> str:
    """The newest rows of the benchmark by method."""
    found = {one["method"]: one for one in lines(HERE.parent / "benchmarks" / "results" / "grpo.jsonl")}
    rows = []
    for one in found.values():
        passes = ", ".join(f"{name} {flops / 1e6:.1f}" for name, flops in one["passes"].items())
        timed = one["seconds_ratio"]
        seconds = f"{timed['median']:.2f} ({timed['min']:.2f} to {timed['max']:.2f})"
        rows.append([one["method"], f"{one['flops'] / 1e6:.1f}", passes, f"{one['ratio']:.3f}", seconds])
    heading = ["update", "million operations", "passes", "ratio", "ratio of seconds"]
    return f"{COUNTED}\n\n{table(heading, rows)}"


def tables() -> str:
    """All of the page."""
    return "\n\n".join(filter(None, [arithmetic(), grid(), speed(), changed(), preferences(), counted()]))


if __name__ == "__main__":
    write(PAGE, tables())
