"""``ft-jax lorahub``: adapters of other tasks mixed for a task of one's own, from a few examples."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from ft_jax.cli.choose import experiment_of
from ft_jax.cli.entry import Parser, place
from ft_jax.cli.experiments import load
from ft_jax.cli.text import answered, columns

DESCRIPTION = """Finds weights under which adapters of other tasks solve this one, without a gradient (LoraHub), and
writes the mixture as one adapter that peft loads.

FILE is a file of texts with labels (reviews.csv), or an experiment of ft-jax list or its file, whose data are the
task: sft --data.address chats.jsonl. The base is the experiment's model: --model.address PATH. Adapters are of one
kind and rank; heads saved with them are mixed too, and number the classes as the data do."""


def parser() -> Parser:
    """Of the command's words."""
    made = Parser(
        prog="ft-jax lorahub",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("file", metavar="FILE", help="a file of texts with labels, or an experiment")
    made.add_argument("--adapters", nargs="+", required=True, metavar="ADAPTER", help="folders, hf://… or pkg://…")
    made.add_argument("--out", required=True, type=place, help="the folder to write")
    made.add_argument("--examples", type=int, default=32, help="of the task, from which weights are found")
    made.add_argument("--looks", type=int, default=40, help="mixtures that are looked at")
    made.add_argument("--penalty", type=float, default=0.05, help="of the weights' mean size")
    made.add_argument("--search-seed", type=int, default=0, help="of the search; the data's is --seed")
    made.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    made.add_argument("--json", action="store_true", help="print the report as one JSON object, the rest on stderr")
    return made


def command(words: Sequence[str]) -> int:
    """Mixes, prints the weights and what every way came to, and writes the adapter."""
    return answered(_command, words)


def _command(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    options, changes = parser().parse_known_args(list(words))

    from ft_jax.training.mixing import MEAN, MIXTURE, ZERO, mix
    from ft_jax.training.overrides import override
    from ft_jax.training.run_folder import finite

    file, changes = experiment_of(options.file, changes)
    experiment = override(load(file), changes)
    found = mix(
        experiment,
        options.adapters,
        options.out,
        examples=options.examples,
        budget=options.looks,
        penalty=options.penalty,
        seed=options.search_seed,
        overwrite=options.overwrite,
    )
    metric = experiment.evaluation.metric
    called = {MIXTURE: "the mixture", MEAN: "the mean of their updates", ZERO: "none of them"}
    rows = [
        (
            called.get(way, way),
            f"{found.weights[way]:.3f}" if way in found.weights else "",
            f"{loss:.4g}",
            f"{found.scores[way][metric]:.4g}" if metric in found.scores.get(way, {}) else "",
        )
        for way, loss in found.loss.items()
    ]
    print(columns([("", "weight", f"loss on {found.examples} examples", f"{metric} held out"), *rows]))
    print(found.folder)
    return 0, finite({**dataclasses.asdict(found), "folder": str(found.folder)})
