"""``ft-jax methods``: the catalogue, and one method's documentation."""

import inspect
import json
from collections.abc import Iterable, Sequence

from ft_jax.cli.entry import Parser
from ft_jax.cli.text import columns
from ft_jax.core.catalogue import FAMILIES, Entry, catalogue


def command(words: Sequence[str]) -> int:
    """Prints the methods by family, one method's documentation, or either as JSON."""
    parser = Parser(prog="ft-jax methods", description="The catalogue of methods, by family.")
    parser.add_argument("name", nargs="?", help="a method, such as transfer.lora, or a family")
    parser.add_argument("--json", action="store_true", help="print a list of objects with family, name, paper, ...")
    options = parser.parse_args(words)
    one = options.name is not None and options.name not in FAMILIES
    if one:
        entries = [catalogue[options.name]]
    else:
        entries = [entry for entry in catalogue.values() if options.name in (None, entry.family)]
    if options.json:
        print(json.dumps([entry.describe() for entry in entries], indent=2, ensure_ascii=False))
    elif one:
        print(documentation(entries[0]))
    else:
        print(table(entries))
    return 0


def table(entries: Iterable[Entry]) -> str:
    """The methods grouped by family, with a sentence for each."""
    entries = list(entries)
    families = list(dict.fromkeys(entry.family for entry in entries))
    rows: list[tuple[str, ...] | str] = []
    for family in families:
        rows.append(family)
        rows += [(entry.name, entry.summary) for entry in entries if entry.family == family]
    plural = "methods in 1 family" if len(families) == 1 else f"methods in {len(families)} families"
    return f"{columns(rows)}\n\n{len(entries)} {plural}; ft-jax methods NAME shows one"


def documentation(entry: Entry) -> str:
    """Everything the catalogue knows about a method."""
    facts = {
        "family": entry.family,
        "paper": entry.paper,
        "batch fields": ", ".join(entry.needs) or "those of the loss",
        "does nothing at": _neutral(entry),
    }
    head = f"{entry.name}{_signature(entry)}"
    return "\n\n".join([head, inspect.getdoc(entry.build), columns(list(facts.items()))])


def _signature(entry: Entry) -> str:
    signature = inspect.signature(entry.build).replace(return_annotation=inspect.Signature.empty)
    line = str(signature)
    if len(entry.name) + len(line) <= 100:
        return line
    parameters = list(signature.parameters.values())
    keyword_only = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    lines = [str(parameter) for parameter in parameters]
    if keyword_only:
        lines.insert(parameters.index(keyword_only[0]), "*")
    return "(\n" + "".join(f"    {one},\n" for one in lines) + ")"


def _neutral(entry: Entry) -> str:
    if isinstance(entry.neutral, str):
        return f"no value: {entry.neutral}"
    return ", ".join(f"{name} = {value:g}" for name, value in entry.neutral.hyper.items())
