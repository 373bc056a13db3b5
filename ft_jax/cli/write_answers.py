"""``ft-jax write-answers``: a teacher's answers to prompts, as data that a student trains on."""

import argparse
import shlex
from collections.abc import Sequence

from ft_jax.cli.entry import Parser

DESCRIPTION = """Has a teacher answer every prompt of a file, and writes prompts and answers to DIR/answers.jsonl.

A student then trains on them as on any text (sequence-level distillation, Kim and Rush 2016): ft-jax run own/sft
--data.address DIR/answers.jsonl --model.address SMALL. DIR/teacher.json has the digests of teacher, tokenizer, prompts
and answers. A call that was cut off goes on when it is made again."""


def parser() -> Parser:
    """Of the command's words."""
    made = Parser(
        prog="ft-jax write-answers",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("prompts", metavar="FILE", help="with 'prompt' (texts or messages) or 'messages'")
    made.add_argument("--teacher", required=True, metavar="ADDRESS", help="of the teacher")
    made.add_argument("--out", required=True, metavar="DIR", help="a new folder, or that of a call that was cut off")
    made.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="at most so many an answer")
    made.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    made.add_argument("--top-p", type=float, help="sample among the likeliest that hold this probability together")
    made.add_argument("--seed", type=int, default=0, help="of sampling")
    made.add_argument("--batch", type=int, default=8, help="prompts at once; 8 by default")
    made.add_argument("--plain", action="store_true", help="texts go on without the teacher's chat template")
    made.add_argument("--keep-cut", action="store_true", help="keep answers that had not ended; they are left out")
    made.add_argument("--compute", metavar="TYPE", help="the teacher's compute type; float32 by default")
    return made


def command(words: Sequence[str]) -> int:
    """Writes the answers and says how to train on them."""
    options = parser().parse_args(list(words))

    from ft_jax.training.answering import write_answers

    written = write_answers(
        options.prompts,
        options.teacher,
        options.out,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch,
        plain=options.plain,
        keep_cut=options.keep_cut,
        compute=options.compute,
        tell=lambda line: print(line, flush=True),
    )
    what = "kept though cut" if options.keep_cut else "left out"
    cut = f"; not ended after {options.max_new_tokens} tokens and {what}: {written.cut:,}" if written.cut else ""
    print(f"{written.file}: {written.kept:,} of {written.header.rows:,} answers, {written.tokens:,} tokens{cut}")
    print(f"train on it: ft-jax run own/sft --data.address {shlex.quote(str(written.file))} --model.address SMALL")
    return 0
