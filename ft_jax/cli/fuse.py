"""``ft-jax fuse``: several runs' predictions in one, calibrated and scored."""

import dataclasses
import html
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import Parser, place
from ft_jax.cli.text import columns


def command(words: Sequence[str]) -> int:
    """Prints members, fusions and their scores; writes the reliability diagrams where asked."""
    parser = Parser(
        prog="ft-jax fuse",
        description="Fuse the predictions of several runs on the same examples and score them. An experiment is "
        "trained first where its run is not there yet.",
    )
    parser.add_argument("members", nargs="+", help="experiments by name or file, or npz files with logits and labels")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each experiment, from seeds 0, 1, …")
    parser.add_argument("--on", help="the evaluation set, where experiments have several")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs")
    parser.add_argument(
        "--by", nargs="+", default=["mean", "vote", "product"], help="mean, vote, product, weighted, stack"
    )
    parser.add_argument(
        "--quorum", type=int, metavar="N", help="votes that an answer needs; what has fewer is left unanswered"
    )
    parser.add_argument("--calibrate", help="temperature or vector, of every fusion")
    parser.add_argument("--conformal", help="aps or raps: sets of classes that hold the true one")
    parser.add_argument("--alpha", type=float, default=0.1, help="the sets' chance to miss")
    parser.add_argument("--held-out", type=float, default=0.5, help="share of the examples that fitting takes")
    parser.add_argument("--seed", type=int, default=0, help="of that share's draw")
    parser.add_argument("--out", type=place, help="a page with the table and reliability diagrams")
    parser.add_argument("--save", type=place, help="an npz with every row's logits, to go on with")
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    options = parser.parse_args(words)
    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; give at least 1")

    from ft_jax.ensemble.fusion import check_quorum, compare

    if options.quorum is not None:
        check_quorum(options.quorum, options.by, _count(options))
    names, logits, labels = _members(options)
    found = compare(
        names,
        logits,
        labels,
        by=options.by,
        calibrate=options.calibrate,
        conformal=options.conformal,
        alpha=options.alpha,
        held_out=options.held_out,
        seed=options.seed,
        quorum=options.quorum,
    )
    written: list[Path] = []
    if options.json:
        print(json.dumps(as_json(found), ensure_ascii=False))
    else:
        print(text(found, len(names), options.alpha))
    if options.save is not None:
        import numpy as np

        from ft_jax.training.predictions import Predictions

        rows = np.stack([row.logits for row in found.rows])
        Predictions(tuple(row.name for row in found.rows), rows, labels).save(options.save)
        written.append(options.save)
    if options.out is not None:
        options.out.write_text(page(found, len(names), options.alpha), encoding="utf-8")
        written.append(options.out)
    for file in written:
        print(file, file=sys.stderr if options.json else sys.stdout)
    return 0


def as_json(found) -> dict[str, Any]:
    """The comparison in types of JSON, without logits."""
    rows = [{"name": row.name, **dataclasses.asdict(row.scores)} for row in found.rows]
    sets = {name: {"coverage": covered, "classes": size} for name, (covered, size) in found.sets.items()}
    from ft_jax.training.run_folder import finite

    quorum = None if found.quorum is None else dataclasses.asdict(found.quorum)
    told = {"rows": rows, "weights": found.weights, "sets": sets, "fitted_on": found.fitted_on, "quorum": quorum}
    return finite(told)


def _count(options) -> int:
    """How many members there are to be, before any is trained."""
    from ft_jax.cli.experiments import find, load
    from ft_jax.training.predictions import read_predictions
    from ft_jax.training.prepare import prepare

    def of(member):
        if member.endswith(".npz"):
            return len(read_predictions(member).names)
        return options.seeds * math.prod(prepare(load(find(member)), outline=True).program.trials)

    return sum(map(of, options.members))


def _members(options):
    """Names, logits and labels of all members, which must speak of the same examples."""
    import numpy as np

    from ft_jax.cli.experiments import find, load
    from ft_jax.training.fit import fit
    from ft_jax.training.predictions import predictions, read_predictions

    found = []
    for member in options.members:
        if member.endswith(".npz"):
            found.append(read_predictions(member))
            continue
        experiment = load(find(member))
        for seed in range(options.seeds):
            one = dataclasses.replace(experiment, seed=seed)
            folder = options.runs / experiment.name / f"seed-{seed}"
            result = fit(one, run=folder, command=("ft-jax", "fuse", *options.members))
            name = experiment.name if options.seeds == 1 else f"{experiment.name} seed {seed}"
            found.append(predictions(result, one, on=options.on, name=name))
    first = found[0]
    for other in found[1:]:
        if other.logits.shape[1:] != first.logits.shape[1:] or not np.array_equal(other.labels, first.labels):
            raise ValueError(
                f"{other.names[0]} and {first.names[0]} speak of different examples or classes "
                f"({other.logits.shape[1:]} and {first.logits.shape[1:]}, or other labels); fuse predictions of one set"
            )
    return (
        tuple(name for one in found for name in one.names),
        np.concatenate([one.logits for one in found]),
        first.labels,
    )


def rows_of(found, members: int) -> list[tuple[str, ...]]:
    """The table's cells: heading, each member, the members' mean, then fusions."""
    head = ("", "accuracy", "log-likelihood", "Brier", "ECE")
    numbers = [
        [getattr(row.scores, name) for name in ("accuracy", "log_likelihood", "brier", "ece")] for row in found.rows
    ]
    mean = [sum(column) / members for column in zip(*numbers[:members], strict=True)]
    named = [(row.name, *(f"{x:.4f}" for x in line)) for row, line in zip(found.rows, numbers, strict=True)]
    named.insert(members, ("members on average", *(f"{x:.4f}" for x in mean)))
    return [head, *named]


def notes_of(found, alpha: float) -> list[str]:
    """What was fitted, on how many examples, and what the sets are like."""
    notes = [f"scored on {found.rows[0].scores.count} examples"]
    if found.fitted_on:
        notes[0] += f", fitted on {found.fitted_on} others"
    if found.weights is not None:
        notes.append("weights of the mixture: " + ", ".join(f"{weight:.3f}" for weight in found.weights))
    if found.quorum is not None:
        asked = found.quorum
        notes.append(
            f"with a quorum of {asked.needed} votes {asked.answered:.1%} are answered and {asked.accuracy:.1%} of "
            f"those rightly; {len(asked.unanswered)} are left unanswered (--json says which)"
        )
    for name, (covered, size) in found.sets.items():
        notes.append(
            f"sets of {name}: {covered:.1%} hold the label, {1 - alpha:.0%} was promised, {size:.2f} classes a set"
        )
    return notes


def text(found, members: int, alpha: float) -> str:
    """The comparison for a terminal."""
    return "\n".join([columns(rows_of(found, members)), "", *notes_of(found, alpha)])


def page(found, members: int, alpha: float) -> str:
    """The comparison as a page with every row's reliability diagram."""
    head, *body = rows_of(found, members)
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    pictures = "".join(
        f"<figure>{row.reliability.picture(row.name)}<figcaption>{html.escape(row.name)}</figcaption></figure>"
        for row in found.rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in notes_of(found, alpha))
    style = (
        ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;"
        "padding:0 1em}td,th{padding:.2em 1em .2em 0;text-align:left}figure{display:inline-block;margin:.5em}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Members and their fusion</title>'
        f"<style>{style}</style><h1>Members and their fusion</h1>"
        f"<table><tr>{cells}</tr>{lines}</table>{notes}{pictures}</html>\n"
    )
