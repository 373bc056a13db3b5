"""``ft-jax data``: what is understood of files, before anything trains."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ft_jax.cli.entry import Parser
from ft_jax.cli.text import columns

BAR = 40
COLOUR, PLAIN = "\x1b[32;1m", "\x1b[0m"


def command(words: Sequence[str]) -> int:
    """Prints columns, classes, lengths and examples of data sets."""
    parser = Parser(
        prog="ft-jax data",
        description="What is understood of data sets: columns and roles, types, classes, lengths, what would be cut, "
        "and the first examples with the tokens that carry loss.",
    )
    parser.add_argument("addresses", nargs="+", metavar="FILE", help="files, or any address of a data set")
    parser.add_argument("--model", help="address of a model, whose tokenizer counts and shows tokens")
    parser.add_argument("--length", type=int, help="the most tokens (without --model, words) of an example")
    parser.add_argument("--split", help="train, validation or test; all of it by default")
    parser.add_argument("--quotes", choices=("yes", "no"), help="whether quotes enclose fields of a csv or tsv")
    parser.add_argument("--examples", type=int, default=3, help="how many to show; 3 by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    if options.length is not None and options.length < 1:
        raise ValueError(f"--length is {options.length}; give at least 1")
    found = inspect(
        options.addresses,
        model=options.model,
        length=options.length,
        split=options.split,
        quotes=None if options.quotes is None else options.quotes == "yes",
        examples=max(options.examples, 0),
    )
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(told(address, one, sys.stdout.isatty()) for address, one in found.items()))
    return 0


def inspect(
    addresses: Sequence[str],
    *,
    model: str | None = None,
    length: int | None = None,
    split: str | None = None,
    quotes: bool | None = None,
    examples: int = 3,
) -> dict[str, Any]:
    """What ``ft-jax data`` tells, by address, in types of JSON; the classes of all addresses have one numbering.

    Raises:
      ValueError: whatever training would refuse of the files.
    """
    from ft_jax import data

    sets = data.one_mapping({address: data.load(address, split, quotes) for address in addresses})
    tokenizer = None if model is None else tokenizer_of(model)
    return {address: _inspected(one, tokenizer, length, examples) for address, one in sets.items()}


def tokenizer_of(address: str) -> Any:
    """A model's tokenizer, without its parameters.

    Raises:
      ValueError: the model has none.
    """
    from ft_jax import models

    tokenizer = models.load(address, abstract=True, strict=False).tokenizer
    if tokenizer is None:
        raise ValueError(f"{address} has no tokenizer; give a model with one, or leave --model out to count words")
    return tokenizer


def _inspected(dataset: Any, tokenizer: Any, length: int | None, examples: int) -> dict[str, Any]:
    from ft_jax.data import description

    found: dict[str, Any] = {
        "examples": len(dataset),
        "form": description.form_of(dataset),
        "columns": {name: dataclasses.asdict(one) for name, one in description.understood(dataset).items()},
        "classes": description.class_counts(dataset),
    }
    if found["form"] in ("unknown", "images", "labelled images", "tokens"):
        return found
    if tokenizer is None:
        sizes, unit, parts = description.word_counts(dataset), "words", []
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = description.tokens_of(dataset, tokenizer)
        sizes, unit = [max(len(ids) for _, ids, _ in one) for one in parts], "tokens"
    over = [] if length is None else [size - length for size in sizes if size > length]
    found["lengths"] = {
        "unit": unit,
        "least": min(sizes),
        "mean": sum(sizes) / len(sizes),
        "most": max(sizes),
        "histogram": description.histogram(sizes),
    }
    if length is not None:
        found["cut"] = {"length": length, "examples": len(over), unit: sum(over)}
    if tokenizer is not None:
        if length is not None and found["form"] not in description.NO_LOSS_OF_TOKENS:
            found["cut"]["nothing left to learn"] = sum(
                not all(learned[1:length].any() for _, _, learned in one) for one in parts
            )
        found["learned"] = sum(int(learned.sum()) for one in parts for _, _, learned in one)
        found["first"] = [
            [dataclasses.asdict(part) for part in description.shown(one, tokenizer, length)] for one in parts[:examples]
        ]
    return found


def told(address: str, found: dict[str, Any], colour: bool) -> str:
    """One data set's description in words."""
    rows: list[Any] = ["columns"]
    for name, one in found["columns"].items():
        missing = f", missing in {one['missing']}" if one["missing"] else ""
        rows.append((name, one["role"], f"{one['type']}{missing}; first: {one['first']}"))
    if found["classes"]:
        rows.append("classes")
        most = max(found["classes"].values())
        rows += [(f"{i} {name}", f"{n:,}", _bar(n, most)) for i, (name, n) in enumerate(found["classes"].items())]
    if "lengths" in found:
        lengths = found["lengths"]
        rows.append(
            f"lengths in {lengths['unit']}: {lengths['least']} to {lengths['most']}, mean {lengths['mean']:.1f}"
        )
        most = max(n for *_, n in lengths["histogram"])
        rows += [
            (f"{low}" if low == high else f"{low}–{high}", f"{n:,}", _bar(n, most))
            for low, high, n in lengths["histogram"]
        ]
    text = f"{address}: {found['examples']:,} examples, {found['form']}\n\n{columns(rows)}"
    if found["form"] == "unknown":
        text += f"\n\nno experiment reads these columns; rename them to those of one: {known_columns()}"
    if "cut" in found:
        cut = found["cut"]
        unit = found["lengths"]["unit"]
        text += f"\n\ncut to {cut['length']} {unit}: {cut['examples']:,} examples lose {cut[unit]:,} {unit}"
        empty = cut.get("nothing left to learn")
        text += f", {empty:,} of them all that carries loss, which training refuses" if empty else ""
    if "first" in found:
        said = "no token carries loss of its own, the example as a whole does"
        if found["learned"]:
            said = f"{found['learned']:,} tokens carry loss, {'green' if colour else 'in ⟦⟧'} below"
        text += f"\n\nfirst examples ({said})"
        for number, parts in enumerate(found["first"]):
            for part in parts:
                name = f"{number} {part['name']}".strip()
                text += f"\n  {name}: " + "".join(_marked(*piece, colour) for piece in part["pieces"])
    elif "lengths" in found:
        text += "\n\n--model ADDRESS counts tokens and shows which of them carry loss"
    return text


def known_columns() -> str:
    """The columns that training knows what to do with, form by form."""
    from ft_jax.data import description

    return ", or ".join(" and ".join(names).replace("labels", "label") for names in description.FORMS.values())


def _bar(count: int, most: int) -> str:
    return "█" * max(round(BAR * count / most), int(count > 0)) if most else ""


def _marked(text: str, learned: bool, colour: bool) -> str:
    text = text.replace("\n", "⏎")
    if not learned:
        return text
    return f"{COLOUR}{text}{PLAIN}" if colour else f"⟦{text}⟧"
