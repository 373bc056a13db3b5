"""Trains every ordered pair of methods and draws the picture: ``make matrix``."""

import argparse
import datetime
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import ft_jax
from ft_jax.testing.pairs import Pair, check_refusal, composition, digest_of, digests, losses, refusal
from ft_jax.testing.quick import compile_quickly

LINES = Path(__file__).parents[2] / "docs" / "matrix.jsonl"
FORGET = 100
"""Pairs after which compiled programs are forgotten."""
RESULTS = {"trains": 2, "refused": 1, "fails": 0}


def ordered() -> list[tuple[str, str]]:
    """Every ordered pair of the catalogue, outermost first."""
    return list(itertools.permutations(ft_jax.catalogue, 2))


def recorded(path: Path = LINES) -> dict[tuple[str, str], dict]:
    """The lines of the matrix as it was last run, by pair; the last one counts, and a line cut short does not."""
    found = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found[line["outer"], line["inner"]] = line
    return found


def waiting(known: dict[tuple[str, str], dict], sources: dict[str, str], seed: int) -> Iterator[tuple[str, str]]:
    """All pairs in the order in which to look at them.

    First those with a method whose own sources are not what the matrix saw, then a rotating sample of the others:
    first what a change of the core has made stale.
    """

    def age(pair):
        line = known.get(pair)
        if line is None:
            return 0
        seen, now = line["digest"].split("."), digest_of(*pair, sources).split(".")
        return 0 if seen[:2] != now[:2] else 1 if seen != now else 2

    shuffled = random.Random(seed).sample(ordered(), len(ordered()))
    return iter(sorted(shuffled, key=age))


def outcome(outer: str, inner: str) -> dict:
    """One pair's line: trained, with its loss before and after, or refused, with the sentence."""
    line = {"outer": outer, "inner": inner}
    sentence = refusal(outer, inner)
    if sentence is not None:
        check_refusal(Pair(outer, inner, sentence))
        return {**line, "result": "refused", "reason": sentence}
    try:
        first, last, trains = losses(composition(outer, inner))
    except Exception as error:
        return {**line, "result": "fails", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {**line, "result": "trains" if trains else "fails", "first": round(first, 4), "last": round(last, 4)}


def draw(lines: list[dict], path: Path) -> None:
    """The matrix as an SVG: rows outer, columns inner."""
    import matplotlib  # An extra, ft_jax[docs]: only pictures need it.

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(ft_jax.catalogue)
    grid = np.full((len(names), len(names)), np.nan)
    for line in lines:
        grid[names.index(line["outer"]), names.index(line["inner"])] = RESULTS[line["result"]]
    size = 3 + 0.13 * len(names)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    colours = matplotlib.colors.ListedColormap(["#c0392b", "#d9d9d9", "#2e86ab"])
    axes.imshow(grid, cmap=colours, vmin=0, vmax=2)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("inner")
    axes.set_ylabel("outer")
    counts = {result: sum(line["result"] == result for line in lines) for result in RESULTS}
    told = f"{counts['trains']} train (blue), {counts['refused']} are refused (grey), {counts['fails']} fail (red)"
    axes.set_title(f"{len(lines)} ordered pairs of {len(names)} methods, {datetime.date.today()}: {told}", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Runs what is not recorded for today's sources; exits non-zero where a pair neither trains nor is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=LINES.parent)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the next run goes on")
    parser.add_argument("--again", action="store_true", help="forget what is recorded")
    arguments = parser.parse_args()
    compile_quickly()
    jax.config.update("jax_disable_most_optimizations", True)
    path, sources, began = arguments.out / "matrix.jsonl", digests(), time.monotonic()
    known = {} if arguments.again else recorded(path)
    todo = [pair for pair in ordered() if known.get(pair, {}).get("digest") != digest_of(*pair, sources)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(known.values(), path)
    with path.open("a") as file:
        for count, pair in enumerate(todo, 1):
            if time.monotonic() - began > 60 * arguments.minutes:
                print(f"{len(todo) - count + 1} of {len(ordered())} pairs are left; run again to go on")
                break
            line = {**outcome(*pair), "digest": digest_of(*pair, sources)}
            known[pair] = line
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{count}/{len(todo)} {pair[0]} over {pair[1]}: {line['result']}", flush=True)
            if count % FORGET == 0:
                jax.clear_caches()
    lines = [known[pair] for pair in ordered() if pair in known]
    write(lines, path)
    draw(lines, arguments.out / "matrix.svg")
    failed = [line for line in lines if line["result"] == "fails"]
    for line in failed:
        print(f"fails: {line}")
    raise SystemExit(bool(failed))


def write(lines, path: Path) -> None:
    """Lines of JSON, nothing else in the file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
