"""``ft-jax cache-teacher``: a teacher's likeliest classes for an experiment's rows, written once."""

import argparse
from collections.abc import Sequence

from ft_jax.cli.entry import Parser
from ft_jax.cli.experiments import find, load

DESCRIPTION = """Writes a teacher's likeliest classes for every token that an experiment learns, once, to a folder.

Training then needs no teacher in memory: --data.teacher DIR --method "distillation.cached_logits()". Any field of the
experiment can be overridden, as in ft-jax run: --data.address chat.jsonl --model.address SMALL. A call that was cut off
goes on when it is made again."""


def parser() -> Parser:
    """Of the command's words."""
    made = Parser(
        prog="ft-jax cache-teacher",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("experiment", metavar="EXPERIMENT", help="own/distil, another of ft-jax list, or a file")
    made.add_argument("--teacher", required=True, metavar="ADDRESS", help="of the teacher")
    made.add_argument("--out", required=True, metavar="DIR", help="a new folder, or that of a call that was cut off")
    made.add_argument("--top", type=int, default=64, help="classes a token; 64 by default")
    made.add_argument("--stored", default="float16", metavar="TYPE", help="of log-probabilities: float16 or float32")
    made.add_argument("--batch", type=int, default=8, help="rows at once; 8 by default")
    made.add_argument("--compute", metavar="TYPE", help="the teacher's compute type; float32 by default")
    return made


def command(words: Sequence[str]) -> int:
    """Writes the cache and says what it holds and how to train from it."""
    options, changes = parser().parse_known_args(list(words))

    from ft_jax.training.caching import cache_teacher
    from ft_jax.training.overrides import override

    experiment = override(load(find(options.experiment)), changes)
    written = cache_teacher(
        experiment,
        options.teacher,
        options.out,
        top=options.top,
        dtype=options.stored,
        batch_size=options.batch,
        compute=options.compute,
        tell=lambda line: print(line, flush=True),
    )
    header = written.header
    each = written.bytes / max(written.tokens, 1)
    print(
        f"{written.folder}: {header.rows:,} rows, {written.tokens:,} tokens with loss, {header.top} of "
        f"{header.classes:,} classes each; {written.bytes / 2**20:.1f} MiB, {each:.0f} bytes a token"
    )
    given = " ".join(changes)
    print(
        f"train from it: ft-jax run {options.experiment} {given} --data.teacher {written.folder} "
        '--method "distillation.cached_logits()"'
    )
    return 0
