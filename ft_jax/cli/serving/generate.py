"""``ft-jax generate``: text from a run's model, shown as it is written."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from ft_jax.cli.entry import Parser
from ft_jax.outside import printable


def command(words: Sequence[str]) -> int:
    """Writes an answer to every prompt."""
    parser = Parser(
        prog="ft-jax generate",
        description="Text from a run's model, as it is written; by its chat template where it has one.",
    )
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("prompt", nargs="*", help="a message to answer, or a text to go on with")
    parser.add_argument(
        "--image",
        metavar="FILE",
        action="append",
        default=[],
        help="an image to write to; the prompt then has <image> in its place, by default it is the run's own",
    )
    parser.add_argument("--system", help="a system message before it")
    parser.add_argument("--plain", action="store_true", help="use no chat template")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="at most so many each")
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    parser.add_argument("--top-k", type=int, help="sample among so many of the likeliest")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest that hold this probability together")
    parser.add_argument("--min-p", type=float, help="sample among those with this share of the likeliest's probability")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=NUMBER[,NUMBER…]",
        help="what the run's methods read of a prompt, one for all or one for each: adapter=1 of a transfer.bank",
    )
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--json", action="store_true", help="a JSON line a prompt, when it is whole")
    parser.add_argument("--base", metavar="ADDRESS", help="where the model that was tuned is, if it moved")
    options = parser.parse_args(words)
    if not (options.prompt or options.image):
        raise ValueError("ft-jax generate needs a prompt to answer; give it after the run, or an image by --image")

    import jax

    from ft_jax.training.serving import answers, load_run

    kept = load_run(options.run, options.base)
    if options.image:
        return _captions(kept, options)
    pieces = answers(
        kept,
        options.prompt,
        system=options.system,
        plain=options.plain,
        max_new_tokens=options.max_new_tokens,
        key=jax.random.key(options.seed),
        fields=_fields(options.field, len(options.prompt)),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
    )
    written = [""] * len(options.prompt)
    last = None
    for index, piece in pieces:
        if not options.json:
            if index != last:
                print(("\n\n" if last is not None else "") + _heading(options.prompt, index), end="")
            print(piece, end="", flush=True)
        written[index] += piece
        last = index
    if options.json:
        for prompt, text in zip(options.prompt, written, strict=True):
            print(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False))
    else:
        print()
    sys.stdout.flush()
    return 0


def _captions(kept: Any, options: Any) -> int:
    """Writes to every image."""
    import jax

    from ft_jax.training.serving.captions import captions

    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    new, key = options.max_new_tokens, jax.random.key(options.seed)
    for image, text in captions(kept, options.image, options.prompt, max_new_tokens=new, key=key, **sampling):
        shown = json.dumps({"image": image, "text": text}, ensure_ascii=False) if options.json else text
        print(shown if options.json or len(options.image) == 1 else f"> {image}\n{text}", flush=True)
    return 0


def _fields(given: Sequence[str], prompts: int) -> dict[str, list[int]]:
    """``{"adapter": [1, 0]}`` of ``adapter=1,0``; one number is every prompt's."""
    found = {}
    for word in given:
        name, _, numbers = word.partition("=")
        try:
            values = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise ValueError(f"--field {printable(word)} is not NAME=NUMBER[,NUMBER…], such as adapter=1") from None
        found[name] = values * prompts if len(values) == 1 else values
    return found


def _heading(prompts: Sequence[str], index: int) -> str:
    return f"> {prompts[index]}\n" if len(prompts) > 1 else ""
