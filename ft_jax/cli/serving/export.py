"""``ft-jax export``: a run's model for peft, transformers or sentence-transformers."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ft_jax.cli.entry import Parser
from ft_jax.outside import printable

LOADS = {
    "sentence-transformers": "sentence_transformers.SentenceTransformer({folder!r})",
    "adapter": "peft.PeftModel.from_pretrained(transformers.{reader}.from_pretrained({base!r}{classes}), {folder!r})",
    "merged": "transformers.{reader}.from_pretrained({folder!r})",
}


MOST_NAMED = 8
"""Classes that are named in the line of Python; it is still a line."""


def command(words: Sequence[str]) -> int:
    """Writes an adapter, or the whole model with the adapters merged, and prints how it is loaded."""
    parser = Parser(
        prog="ft-jax export",
        description="Write a run's model for other libraries, if what loads it there computes the same.",
    )
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--adapter", metavar="DIR", help="peft's two files, the head and the tokenizer")
    parser.add_argument("--merged", metavar="DIR", help="the whole model, for transformers or sentence-transformers")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=NUMBER[,NUMBER…]|FILE.npy",
        help="of a run with several adapters, or a network that writes them, the one that an example with it meets: "
        "adapter=1 of a transfer.bank, task=3 or task_embedding=FILE.npy of a transfer.hypernetwork",
    )
    parser.add_argument("--base", metavar="ADDRESS", help="where the model that was tuned is, if it moved")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="a JSON line for each folder: kind, folder, reader, load")
    options = parser.parse_args(words)
    wanted = {"adapter": options.adapter, "merged": options.merged}
    if not any(wanted.values()):
        raise ValueError("ft-jax export needs a place to write to; give --adapter DIR, --merged DIR or both")

    from ft_jax.training.serving import export_adapter, export_merged, load_run, met

    fields = fields_of(options.field)
    kept = load_run(options.run, options.base)
    kept = met(kept, fields) if fields else kept
    for kind, export in (("adapter", export_adapter), ("merged", export_merged)):
        if wanted[kind] is not None:
            folder, reader = export(kept, wanted[kind], options.overwrite)
            loads = how_to_load(kind, kept, str(folder), reader)
            told = {"kind": kind, "folder": str(folder), "reader": reader, "load": loads}
            print(json.dumps(told, ensure_ascii=False) if options.json else f"{folder}: {loads}")
    return 0


def fields_of(words: Sequence[str]) -> dict[str, Any]:
    """What an example holds beside what the model reads: a number, or a vector of several or of a file.

    Raises:
      ValueError: a word that is neither, a name that is given twice.

    Example:
      >>> fields_of(["adapter=1"])
      {'adapter': 1}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, _, told = word.partition("=")
        if name in found:
            raise ValueError(f"--field {printable(name)} is given twice; an example has one")
        try:
            file = told.endswith(".npy")
            value = np.load(told, allow_pickle=False) if file else np.asarray(json.loads(f"[{told}]"))
        except (ValueError, EOFError):
            value = np.empty(0)
        if value.dtype.kind not in "iuf" or value.ndim != 1 or not value.size:
            raise ValueError(
                f"--field {printable(word)} is not NAME=NUMBER[,NUMBER…] or NAME=FILE.npy with such a vector, "
                "such as adapter=1"
            )
        found[name] = value[0].item() if value.size == 1 and not file else value.astype(np.float32)
    return found


def how_to_load(kind: str, kept, folder: str, reader: str) -> str:
    """The line of Python that loads an export."""
    from ft_jax.training.serving.export import SENTENCE, address_for_peft

    if reader == SENTENCE:
        gives = "; encode(texts) gives the logits" if "head" in kept.model.params else ""
        return LOADS[SENTENCE].format(folder=folder) + gives
    base = "" if kind == "merged" else address_for_peft(kept.base["address"])
    head = kept.model.params.get("head") if kept.model.apply.kind is not None else None
    classes = "" if head is None else f", num_labels={head['kernel'].shape[-1]}"
    if kept.model.classes and len(kept.model.classes) <= MOST_NAMED:
        classes = f", id2label={dict(enumerate(kept.model.classes))}"
    return LOADS[kind].format(reader=reader, base=base, classes=classes, folder=folder)
