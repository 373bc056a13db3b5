"""``ft-jax predict``: a run's classes for texts or the examples of a file, a JSON line each."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import Parser

MODALITIES = {"image": "FILE", "audio": "FILE", "text": "TEXT"}
"""What a model of several may be given of one example."""


def command(words: Sequence[str]) -> int:
    """Prints the class and the probabilities of every example, its vector or its numbers."""
    parser = Parser(prog="ft-jax predict", description="A run's classes with probabilities, a JSON line an example.")
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("what", nargs="*", metavar="FILE|TEXT", help="a file with a column text or images, or texts")
    parser.add_argument("--base", metavar="ADDRESS", help="where the model that was tuned is, if it moved")
    for name, meant in MODALITIES.items():
        parser.add_argument(
            f"--{name}",
            metavar=meant,
            action="append",
            help=f"of a model of several modalities, the {name} of one example; of one that compares, several times",
        )
    options = parser.parse_args(words)
    parts = {name: value for name in MODALITIES if (value := getattr(options, name)) is not None}
    if bool(parts) == bool(options.what):
        raise ValueError("give either FILE or TEXT, or the modalities of one example by --image, --audio and --text")
    if parts:
        return several(options.run, options.base, parts)

    from ft_jax.training.serving import gives_numbers, load_run, numbers, predict

    kept = load_run(options.run, options.base)
    if hasattr(kept.model.config, "encoders"):
        return table(kept, options.what)
    examples = examples_in(options.what)
    texts = examples if isinstance(examples, list) else examples.columns.get("text")
    if gives_numbers(kept.model):
        field = "embedding" if kept.model.apply.kind == "embedding" else "values"
        for index, found in enumerate(numbers(kept, examples)):
            shown = {"example": index} if texts is None else {"text": texts[index]}
            print(json.dumps({**shown, field: [round(float(x), 6) for x in found]}, ensure_ascii=False))
        return 0
    for index, found in enumerate(predict(kept, examples)):
        shown = {"example": index} if texts is None else {"text": texts[index]}
        print(json.dumps({**shown, **found.as_json()}, ensure_ascii=False), flush=True)
    return 0


def several(run: str, base: str | None, parts: Mapping[str, Sequence[str]]) -> int:
    """Prints the classes of one example of several modalities, or what a model that compares finds in its inputs."""
    from ft_jax.training.serving.kept import load_run
    from ft_jax.training.serving.several import compare_parts, compares, predict_parts

    kept = load_run(run, base)
    if compares(kept):
        found = compare_parts(kept, parts)
    else:
        twice = next((name for name, given in parts.items() if len(given) > 1), None)
        if twice:
            raise ValueError(
                f"--{twice} is given {len(parts[twice])} times, and an example has one {twice}; give it once"
            )
        found = predict_parts(kept, {name: given[0] for name, given in parts.items()}).as_json()
    told = {name: given[0] if len(given) == 1 else list(given) for name, given in parts.items()}
    print(json.dumps({**told, **found}, ensure_ascii=False), flush=True)
    return 0


def table(kept: Any, words: Sequence[str]) -> int:
    """Prints the classes of the examples of one file, each of several modalities."""
    from ft_jax.training.serving.several import predict_table

    if len(words) != 1:
        raise ValueError(
            f"the model of {kept.run} reads several modalities; give one table of them, or one example by --image, "
            "--audio and --text"
        )
    for number, found in predict_table(kept, words[0]):
        print(json.dumps({"example": number, **found.as_json()}, ensure_ascii=False), flush=True)
    return 0


def examples_in(words: Sequence[str]):
    """The data set of the one file that is named, or the words themselves as texts.

    Raises:
      FileNotFoundError: a word that looks like a file's name and is none.
    """
    from ft_jax import data
    from ft_jax.data.tables import READERS

    endings = (*READERS, ".txt", ".gz")
    if len(words) != 1 or not (words[0].lower().endswith(endings) or (words[0] and Path(words[0]).exists())):
        return list(words)
    if words[0].endswith(".txt"):
        lines = [line for line in Path(words[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{words[0]} has no texts; give a file with one on each line")
        return lines
    return data.load(words[0])
