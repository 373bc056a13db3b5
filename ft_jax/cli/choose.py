"""``ft-jax choose``: which adapter, or which network, suits a task or a file of one's own."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import STOPPED, Parser, place
from ft_jax.cli.experiments import find, load
from ft_jax.cli.text import answered

DESCRIPTION = """Trains candidates in turns and says which one suits the task.

FILE is an experiment of ft-jax list, its file, or a file of texts with labels (reviews.csv). The candidates are the
usual adapters, or those named by --candidate. Any field of the experiment can be overridden: --model.address PATH."""

OWN = "own/classify"
"""The experiment for a file of texts with labels."""


def parser() -> Parser:
    """Of the command's words."""
    made = Parser(
        prog="ft-jax choose",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("file", metavar="FILE", help="an experiment, or a file of texts with labels")
    made.add_argument(
        "--candidate",
        nargs="+",
        action="append",
        metavar="WORD",
        help='NAME METHOD...: lora "transfer.lora(rank=8)" optimizer.learning_rate=1e-3 model.FIELD=VALUE',
    )
    made.add_argument("--controller", default="ucb", help="ucb, thompson, halving or mixture")
    made.add_argument("--turns", type=int, help="how many; two for each candidate by default")
    made.add_argument("--out", type=place, help="the run's folder; runs/NAME-choice by default")
    made.add_argument("--json", action="store_true", help="print the choice as one JSON object, the rest on stderr")
    made.add_argument("--turn-steps", type=int, default=20, help="updates of a turn, before its evaluation")
    return made


def command(words: Sequence[str]) -> int:
    """Chooses, prints why, and writes the page and an experiment of the chosen candidate."""
    return answered(_command, words)


def _command(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """The status, and what there is to tell of the choice."""
    options, changes = parser().parse_known_args(list(words))

    from ft_jax.meta.choosing import as_controller
    from ft_jax.training.choosing import DEFAULT, decide, described, write_choice
    from ft_jax.training.overrides import override
    from ft_jax.training.run_folder import finite

    as_controller(options.controller)
    file, changes = experiment_of(options.file, changes)
    experiment = override(load(file), changes)
    given = {one[0]: one[1:] for one in options.candidate or ()} or DEFAULT
    if options.candidate and len(given) < len(options.candidate):
        raise ValueError("two --candidate have one name; give each a name of its own, as its first word")
    candidates = {name: described(texts, name) for name, texts in given.items()}
    choice = decide(
        experiment,
        candidates,
        options.controller,
        options.turns,
        options.turn_steps,
        lambda line: print(line, flush=True),
        ["ft-jax", "choose", *words],
        options.out,
    )
    for sentence in choice.left_out:
        print(f"warning: {sentence}")
    if choice.result.status != "finished":
        return STOPPED, {}
    made = _write_chosen(choice, experiment, candidates, file, changes)
    line = f"ft-jax run {made}"
    page = write_choice(
        choice, experiment.name, experiment.evaluation.metric, candidates, choice.result.run / "choice.html", line
    )
    for row in choice.standings:
        mean = "no turn" if row["mean"] is None else f"mean {row['mean']:.4g} over {row['turns']} turns"
        print(f"  {row['candidate']}: {mean}")
    print(f"chosen: {choice.chosen}  ({' '.join(candidates[choice.chosen].words[1:])})")
    print(f"train it: {line}")
    print(f"report: {page}")
    told = {"chosen": choice.chosen, "words": list(candidates[choice.chosen].words[1:]), "standings": choice.standings}
    return 0, finite({**told, "run": str(choice.result.run), "experiment": str(made), "report": str(page)})


def experiment_of(name: str, changes: list[str]) -> tuple[Path, list[str]]:
    """The experiment's file and its overrides; of a file of data the experiment for one's own texts."""
    if name.endswith(".py") or not Path(name).is_file():
        return find(name), changes
    return find(OWN), ["--data.address", str(Path(name).resolve()), *changes]


def _write_chosen(choice: Any, experiment: Any, candidates: Any, file: Path, changes: Sequence[str]) -> Path:
    from ft_jax.training.sweeps.winner import FILE

    words = [*changes, "--name", f"{experiment.name}-chosen", *candidates[choice.chosen].words]
    shown = "".join(f"        {word!r},\n" for word in words)
    title = f"{experiment.name} with {choice.chosen}, as ft-jax choose found it."
    out = choice.result.run / "chosen.py"
    out.write_text(FILE.format(title=title, file=str(file.resolve()), words=shown), encoding="utf-8")
    return out
