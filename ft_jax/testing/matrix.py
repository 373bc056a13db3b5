"""Traces or trains every ordered pair of methods and draws the picture: ``make matrix``."""

import argparse
import concurrent.futures
import datetime
import functools
import gc
import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import ft_jax
from ft_jax.testing.pairs import Pair, check_refusal, check_traces, composition, digest_of, digests, losses, refusal
from ft_jax.testing.quick import compile_quickly
from ft_jax.testing.subject import Subject

LINES = Path(__file__).parents[2] / "docs" / "matrix.jsonl"
FORGET = 100
"""Pairs after which compiled programs are forgotten."""
RESULTS = {"trains": 3, "traces": 2, "refused": 1, "fails": 0}
COLOURS = {"trains": "#1f618d", "traces": "#85c1e9", "refused": "#d9d9d9", "fails": "#c0392b"}


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


def outcome(outer: str, inner: str, train: bool = True) -> dict:
    """One pair's line: trained, with its loss before and after, or traced alone, or refused, with the sentence."""
    line = {"outer": outer, "inner": inner}
    sentence = refusal(outer, inner)
    if sentence is not None:
        check_refusal(Pair(outer, inner, sentence))
        return {**line, "result": "refused", "reason": sentence}
    try:
        subject = composition(outer, inner)
        check_traces(subject)
        if not train:
            return {**line, "result": "traces"}
        first, last, trains = descent(outer, inner, subject)
    except Exception as error:
        return {**line, "result": "fails", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {**line, "result": "trains" if trains else "fails", "first": round(first, 4), "last": round(last, 4)}


def descent(outer: str, inner: str, subject: Subject) -> tuple[float, float, bool]:
    """`losses` of a pair, which trains too where its loss is finite and one of the two's does not fall alone either."""
    first, last, trains = losses(subject)
    return first, last, trains or (bool(np.isfinite(last)) and not (falls(outer) and falls(inner)))


@functools.cache
def falls(name: str) -> bool:
    """Whether a method's loss falls by itself in a few steps.

    That of what makes or chooses its own examples need not, nor that of what weighs a token by its likelihood.
    """
    return losses(composition(name))[2]


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
    colours = matplotlib.colors.ListedColormap([COLOURS[result] for result in sorted(RESULTS, key=RESULTS.get)])
    axes.imshow(grid, cmap=colours, vmin=0, vmax=len(RESULTS) - 1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("inner")
    axes.set_ylabel("outer")
    counts = {result: sum(line["result"] == result for line in lines) for result in RESULTS}
    told = f"{counts['trains']} train (blue), {counts['traces']} trace (light blue), "
    told += f"{counts['refused']} are refused (grey), {counts['fails']} fail (red)"
    axes.set_title(f"{len(lines)} ordered pairs of {len(names)} methods, {datetime.date.today()}: {told}", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Runs what is not recorded for today's sources; exits non-zero where a pair neither trains nor is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=LINES.parent)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the next run goes on")
    parser.add_argument("--trace", action="store_true", help="trace the pairs, which is quicker, and train none")
    parser.add_argument("--again", action="store_true", help="forget what is recorded")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; one a core by default")
    arguments = parser.parse_args()
    path, sources, began = arguments.out / "matrix.jsonl", digests(), time.monotonic()
    known = {} if arguments.again else recorded(path)
    pending = ((pair, digest_of(*pair, sources)) for pair in waiting(known, sources, 0))
    todo = [pair for pair, digest in pending if not done(known.get(pair), digest, arguments)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(known.values(), path)
    # Each process compiles for itself, so that none is a copy of one with threads; a killed one ends the run.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(arguments.workers, spawn, prepare)
    look = functools.partial(looked_at, train=not arguments.trace)
    with pool, path.open("a") as file:
        asked = {pool.submit(look, pair): pair for pair in todo}
        for count, future in enumerate(concurrent.futures.as_completed(asked), 1):
            pair, line = asked[future], future.result()
            known[pair] = {**line, "digest": digest_of(*pair, sources)}
            file.write(json.dumps(known[pair]) + "\n")
            file.flush()
            if line["result"] != "refused":
                print(f"{count}/{len(todo)} {pair[0]} over {pair[1]}: {line['result']}", flush=True)
            if time.monotonic() - began > 60 * arguments.minutes:
                print(f"{len(todo) - count} of {len(ordered())} pairs are left; run again to go on")
                pool.shutdown(cancel_futures=True)
                break
    lines = [known[pair] for pair in ordered() if pair in known]
    write(lines, path)
    draw(lines, arguments.out / "matrix.svg")
    failed = [line for line in lines if line["result"] == "fails"]
    for line in failed:
        print(f"fails: {line}")
    raise SystemExit(bool(failed))


def prepare() -> None:
    """Of a process that looks at pairs: nothing is optimised, and what tracing throws away is collected rarely."""
    compile_quickly()
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_traceback_filtering", "off")
    gc.set_threshold(100_000, 20, 20)


def looked_at(pair: tuple[str, str], train: bool) -> dict:
    """The line of a pair, and now and then what was compiled for those before it forgotten."""
    if next(_LOOKED) % FORGET == 0:
        jax.clear_caches()
    return outcome(*pair, train=train)


_LOOKED = itertools.count(1)


def done(line: dict | None, digest: str, arguments: argparse.Namespace) -> bool:
    """Whether a pair was looked at as it is now, as thoroughly as is asked for."""
    return line is not None and line["digest"] == digest and (arguments.trace or line["result"] != "traces")


def write(lines, path: Path) -> None:
    """Lines of JSON, nothing else in the file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
