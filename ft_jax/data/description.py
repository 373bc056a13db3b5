"""What was understood of a data set: its columns' roles and types, its classes, its lengths, what carries the loss."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.chats import render
from ft_jax.data.columns import TEXTS
from ft_jax.data.completions import next_tokens
from ft_jax.data.dataset import Computed, Dataset
from ft_jax.data.preferences import preferences
from ft_jax.data.tokens import encode

FORMS = {
    "preferences": ("prompt", "chosen", "rejected"),
    "conversations": ("messages",),
    "prompts and completions": ("prompt", "completion"),
    "questions with answers": ("prompt", "answer"),
    "pairs of texts": ("anchor", "positive"),
    "pairs of sentences": ("sentence1", "sentence2"),
    "queries and passages": ("query", "passage"),
    "labelled texts": ("text", "labels"),
    "plain texts": ("text",),
    "labelled images": ("images", "labels"),
    "images": ("images",),
    "tokens": ("input_ids",),
}
"""What a data set is for, by the columns that it must have; the first that fits."""

PAIRS = ("pairs of texts", "pairs of sentences", "queries and passages")
"""Forms of two texts whose vectors are compared; a ``score`` or ``label`` says how close they are."""

NO_LOSS_OF_TOKENS = ("labelled texts", "questions with answers", *PAIRS)
"""Forms with texts in which an example has a loss and its tokens have none."""

ROLES = {
    "text": "read by the model",
    "prompt": "read, not learned",
    "completion": "learned",
    "chosen": "learned, preferred",
    "rejected": "learned, not preferred",
    "messages": "the assistant's turns are learned",
    "images": "read by the model",
    "input_ids": "read by the model",
    "answer": "what an answer is checked by",
    "score": "how close the two are",
    **{name: "read by the model" for form in PAIRS for name in FORMS[form]},
}
LEARNED = "learned"


@dataclasses.dataclass(frozen=True)
class Column:
    """What a column is.

    Attributes:
      role: what it is used for, or ``"not used"``.
      type: of its values.
      missing: in how many examples it has no value.
      first: its first value, shortened.
    """

    role: str
    type: str
    missing: int
    first: str


def form_of(dataset: Dataset) -> str:
    """What the columns of a data set are for: a key of `FORMS`, or ``"unknown"``.

    Example:
      >>> form_of(Dataset({"text": ["a"], "labels": [1], "id": [7]}))
      'labelled texts'
    """
    fits = (form for form, columns in FORMS.items() if set(columns) <= dataset.columns.keys())
    return next(fits, "unknown")


def understood(dataset: Dataset) -> dict[str, Column]:
    """Every column's role and type, the same that training goes by.

    Example:
      >>> reviews = Dataset({"text": ["a", "b"], "labels": np.array([1, 0]), "id": [None, "x"]}, ("no", "yes"))
      >>> [(name, one.role, one.type, one.missing) for name, one in understood(reviews).items()][1:]
      [('labels', 'class ids', '2 classes', 0), ('id', 'not used', 'text', 1)]
    """
    form = form_of(dataset)
    used = (*FORMS.get(form, ()), *(("score", "labels") if form in PAIRS else ()))
    return {name: _column(dataset, name, column, name in used) for name, column in dataset.columns.items()}


def _column(dataset: Dataset, name: str, column: Sequence, used: bool) -> Column:
    if isinstance(column, Computed):
        first = column[0]
        return Column(_role(dataset, name, used), f"{_type([first])}, made when read", 0, _short(first))
    missing = 0 if isinstance(column, np.ndarray) else sum(value is None for value in column)
    kind = _label_type(dataset) if name == "labels" and used else _type(column)
    first = column[0]
    if name == "labels" and dataset.classes and np.ndim(first) == 0:
        first = f"{int(first)} ({dataset.classes[int(first)]})"
    return Column(_role(dataset, name, used), kind, missing, _short(first))


def _role(dataset: Dataset, name: str, used: bool) -> str:
    if not used:
        return "not used"
    if name == "labels" and form_of(dataset) in PAIRS:
        return ROLES["score"]
    return label_kind(dataset) if name == "labels" else ROLES[name]


def label_kind(dataset: Dataset) -> str:
    """What labels stand for: ``"class ids"``, ``"numbers"`` to predict, ``"several classes"``, ``"a label a token"``.

    Example:
      >>> label_kind(Dataset({"labels": np.array([0.5, 1.0])}))
      'numbers'
    """
    labels = dataset.column("labels")
    first = np.asarray(labels[0])
    if first.ndim == 0:
        # A class has no id below zero; whole numbers that go there are numbers to predict.
        return "class ids" if first.dtype.kind in "iu" and np.min(np.asarray(labels)) >= 0 else "numbers"
    if "input_ids" in dataset.columns and first.dtype.kind in "iu":
        return "a label a token"
    binary = isinstance(labels, np.ndarray) and np.isin(labels, (0, 1)).all()
    return "several classes" if binary else "numbers"


def _label_type(dataset: Dataset) -> str:
    kind, labels = label_kind(dataset), dataset.column("labels")
    if kind == "several classes":
        return f"0 or 1 for each of {np.shape(labels)[1]} classes"
    if kind == "numbers":
        return _type(labels)
    count = len(dataset.classes) or int(np.max([np.max(one) for one in labels])) + 1
    return f"{count} classes"


def _type(column: Sequence) -> str:
    if isinstance(column, np.ndarray):
        return f"{column.dtype}{list(column.shape[1:]) or ''}"
    kinds = {_kind(value) for value in column if value is not None}
    return " or ".join(sorted(kinds)) or "nothing"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[…]" if value.ndim == 1 else f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "object"
    if isinstance(value, list | tuple):
        messages = value and all(isinstance(one, Mapping) and "role" in one for one in value)
        return "messages" if messages else "list"
    return {bool: "truth value", int: "int", float: "float"}.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 6:
        return f"{value.dtype}{list(value.shape)}"
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:59] + "…"


MANY = 10_000
"""Class ids above which those without an example are not told."""


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Examples of each class, by its name or number; empty for labels that are no classes.

    Example:
      >>> class_counts(Dataset({"labels": np.array([1, 1, 0])}, ("no", "yes", "never")))
      {'no': 1, 'yes': 2, 'never': 0}
    """
    if "labels" not in dataset.columns or isinstance(dataset.columns["labels"], Computed):
        return {}
    kind, labels = label_kind(dataset), dataset.columns["labels"]
    if kind == "numbers":
        return {}
    if kind == "several classes":
        counts = np.sum(labels, axis=0).astype(int)
    else:
        flat = np.concatenate([np.ravel(one) for one in labels])
        if flat.max() > MANY and not dataset.classes:
            # Numbers such as postal codes: a count of each that is there, and not of all below it.
            return {str(name): int(count) for name, count in zip(*np.unique(flat, return_counts=True), strict=True)}
        counts = np.bincount(flat[flat >= 0], minlength=len(dataset.classes))
    names = dataset.classes or tuple(map(str, range(len(counts))))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


@dataclasses.dataclass(frozen=True)
class Shown:
    """An example as the model sees it: its tokens' texts, and which of them carry loss.

    Attributes:
      name: of the part, such as ``"chosen"``; empty where there is one.
      pieces: ``(text, whether it carries loss)`` of runs of tokens.
    """

    name: str
    pieces: tuple[tuple[str, bool], ...]


def tokens_of(dataset: Dataset, tokenizer: Any) -> list[list[tuple[str, np.ndarray, np.ndarray]]]:
    """Each example's parts: name, ids ``[time]`` and which tokens carry loss ``[time]``, at their full length.

    Args:
      dataset: of a form of `FORMS` with texts.
      tokenizer: as for `ft_jax.data.tokenize`.

    Raises:
      ValueError: a text that can't be tokenized as its form asks, such as messages without a chat template.
    """
    form = form_of(dataset)
    if form in NO_LOSS_OF_TOKENS:
        names = [name for name in FORMS[form] if name not in ("labels", "answer")]
        read = [encode(tokenizer, _rendered(tokenizer, dataset.columns[name])) for name in names]
        labels = names if len(names) > 1 else [""]
        return [
            [(name, one.ids, np.zeros(len(one.ids), bool)) for name, one in zip(labels, row, strict=True)]
            for row in zip(*read, strict=True)
        ]
    longest = 2**30
    if form == "preferences":
        pairs = preferences(dataset, tokenizer, length=longest)
        return [[(part, *_learned(pair[part])) for part in ("chosen", "rejected")] for pair in pairs]
    return [[("", *_learned(example))] for example in next_tokens(dataset, tokenizer, length=longest)]


def _rendered(tokenizer: Any, texts: Sequence[Any]) -> list[str]:
    return [one if isinstance(one, str) else render(tokenizer, one, generate=True) for one in texts]


def _learned(fields: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return fields["input_ids"], np.append(False, np.asarray(fields["weights"])[:-1] > 0)


def shown(parts: Sequence[tuple[str, np.ndarray, np.ndarray]], tokenizer: Any, length: int | None) -> list[Shown]:
    """An example's parts as texts, cut where training would."""
    return [Shown(name, tuple(_pieces(tokenizer, ids[:length], learned[:length]))) for name, ids, learned in parts]


def _pieces(tokenizer: Any, ids: np.ndarray, learned: np.ndarray):
    edges = [0, *(np.flatnonzero(np.diff(learned)) + 1), len(ids)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            yield (
                tokenizer.decode([int(one) for one in ids[start:end]], skip_special_tokens=False),
                bool(learned[start]),
            )


def histogram(sizes: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """``(first, last, examples)`` of bins of whole numbers.

    Example:
      >>> histogram([1, 2, 2, 9], bins=3)
      [(1, 3, 3), (4, 6, 0), (7, 9, 1)]
    """
    low, high = int(min(sizes)), int(max(sizes))
    width = -(-(high - low + 1) // bins)
    edges = np.arange(low, high + width + 1, width)
    counts, _ = np.histogram(sizes, edges)
    found = [(int(start), int(start + width - 1), int(n)) for start, n in zip(edges[:-1], counts, strict=True)]
    return found[:-1] if found[-1][0] > high else found


def word_counts(dataset: Dataset) -> list[int]:
    """Words of each example's texts, where there is no tokenizer to count tokens."""
    pairs = [name for form in PAIRS for name in FORMS[form]]
    texts = [name for name in (*TEXTS, *pairs, "messages") if name in dataset.columns]
    return [sum(_words(example[name]) for name in texts) for example in dataset]


def _words(value: Any) -> int:
    if isinstance(value, str):
        return len(value.split())
    return sum(len(str(one.get("content", "")).split()) for one in value if isinstance(one, Mapping))


def summary(dataset: Dataset) -> dict[str, str]:
    """Each column's role, type and classes in a line, for dry runs.

    Example:
      >>> summary(Dataset({"text": ["a", "b"], "labels": np.array([1, 0])}, ("no", "yes")))
      {'text': 'read by the model: text', 'labels': 'class ids: no 1, yes 1'}
    """
    counts = class_counts(dataset)
    classes = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:20])
    return {
        name: f"{one.role}: {classes if name == 'labels' and counts else one.type}"
        for name, one in understood(dataset).items()
    }
