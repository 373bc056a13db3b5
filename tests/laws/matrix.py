"""Trains every ordered pair of methods and draws the picture: ``make matrix``."""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from laws.pairs import ORDERED, descends, try_pair
from laws.problem import NAMES, batch_of, start, train

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def outcome(outer: str, inner: str, steps: int) -> dict:
    """One pair's line: trained, with its loss before and after, or refused, with the sentence."""
    pair, program = try_pair(outer, inner)
    line = {"outer": outer, "inner": inner}
    if program is None:
        return {**line, "result": "refused", "reason": pair.refusal}
    _, history = train(jax.jit(program.step), start(program), batch_of(outer, inner), steps)
    first, last = (float(jnp.mean(history[i]["loss"])) for i in (0, -1))
    result = "trains" if np.isfinite(last) and descends(history) else "fails"
    return {**line, "result": result, "first_loss": first, "last_loss": last}


def draw(lines: list[dict], path: Path) -> None:
    """The matrix as an SVG: rows outer, columns inner."""
    grid = np.full((len(NAMES), len(NAMES)), np.nan)
    value = {"trains": 2.0, "refused": 1.0, "fails": 0.0}
    for line in lines:
        grid[NAMES.index(line["outer"]), NAMES.index(line["inner"])] = value[line["result"]]
    figure, axes = plt.subplots(figsize=(9, 8), layout="constrained")
    colours = matplotlib.colors.ListedColormap(["#c0392b", "#d9d9d9", "#2e86ab"])
    axes.imshow(grid, cmap=colours, vmin=0, vmax=2)
    axes.set_xticks(range(len(NAMES)), NAMES, rotation=60, ha="right")
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.set_xlabel("inner")
    axes.set_ylabel("outer")
    axes.set_title("Pairs of methods: blue trains, grey is refused in this order, red fails")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Writes ``matrix.jsonl`` and ``matrix.svg``; exits non-zero where a pair neither trains nor is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)
    lines = []
    for outer, inner in ORDERED:
        lines.append(outcome(outer, inner, arguments.steps))
        print(f"{len(lines)}/{len(ORDERED)} {outer} over {inner}: {lines[-1]['result']}", flush=True)
        jax.clear_caches()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "matrix.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw(lines, arguments.out / "matrix.svg")
    raise SystemExit(any(line["result"] == "fails" for line in lines))


if __name__ == "__main__":
    main()
