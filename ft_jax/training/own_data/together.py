"""Examples of several modalities in one table or in tars: images, sounds and texts, any of them missing."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import assets, data
from ft_jax.data.dataset import Dataset
from ft_jax.data.labels import read_labels
from ft_jax.data.media import resized
from ft_jax.data.modalities import PRESENT
from ft_jax.data.tables import read_table
from ft_jax.outside import listed, printable
from ft_jax.training.own_data.held_out import check_address, held_back
from ft_jax.training.own_data.rows import MULTIPLE, tokenizer_of
from ft_jax.training.specs import check_targets, classes_of, share, short
from ft_jax.training.stream import Feed, Stream, Task

FILES = {"image": "jpg|jpeg|png|webp", "audio": "wav"}
"""Modalities that are files, and their members' endings in a tar."""

TEXTS = ("text", "caption")
"""The columns of the text where the spec names none."""


@dataclasses.dataclass(frozen=True)
class Together:
    """Images, sounds and texts of one example together: a table whose columns name files and hold texts, or tars.

    A row of the table has paths beside the table in the columns ``image`` and ``audio``, a text in ``text`` (or
    ``caption``), and for a classifier its class in ``label``; what a cell leaves empty, the example lacks. Tars are as
    webdataset writes them. Which modalities are read, and at what size, the model says; one without a head compares
    the sides of a pair, so its examples have them all.

    Attributes:
      address: a table, a tar, tars by a pattern such as ``shards/*.tar``, or a set of tensorflow-datasets with its
        split, ``tfds:name:train``, whose images are in ``image``.
      evaluation: another one to measure on; None holds back `held_out` of the first.
      held_out: the share that is measured on and not trained on.
      image, audio, text: the columns, where they are called otherwise.
      length: the most tokens of a text, and no more than the model takes.
      too_long: ``"truncate"`` or ``"error"`` where a text has more.
      broken: what becomes of an example one of whose files is missing, truncated or of another rate: ``"refuse"`` all,
        or ``"skip"`` it and tell how many there were.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    image: str = "image"
    audio: str = "audio"
    text: str = ""
    length: int = 64
    too_long: str = "truncate"
    broken: str = "refuse"

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "captions.jsonl")
        if self.broken not in ("refuse", "skip"):
            raise ValueError(f"data.broken is {printable(self.broken)}; use 'refuse' or 'skip'")

    def outputs(self) -> int:
        """How many classes the data has."""
        sets = [self._labels(self._alone(address)) for address in (self.address, self.evaluation) if address]
        return len(data.one_mapping(dict(enumerate(sets)))[0].classes) or 1 + max(
            int(np.max(one.column("labels"))) for one in sets
        )

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        parts = encoders_of(model)
        classes = getattr(model.config, "classes", None)
        whole, notes = self.examples(self.address, parts, model)
        if self.evaluation is not None:
            train, (held, more) = whole, self.examples(self.evaluation, parts, model)
            notes = [*notes, *more]
        else:
            away = held_back([row["key"] for row in whole.select("key")], self.held_out, self.address)
            train, held = (whole.take(np.flatnonzero(rows)) for rows in (~away, away))
        sets = {"the training examples": train} | ({"the evaluation examples": held} if len(held) else {})
        if classes is not None:
            sets = data.one_mapping(sets, getattr(model, "classes", ()), classes_of(model))
            sets = {name: check_targets(one, model) for name, one in sets.items()}
        train, held = sets["the training examples"], sets.get("the evaluation examples")
        shape = self.shape(parts, model, sets.values())
        kept = (*parts, *(() if classes is None else ("labels",))) if _nested(model) else ("images", "input_ids")
        source = data.batches(train.select(*kept), feed.batch_size, seed=feed.seed, **shape, **share(feed))
        name = short(self.address)
        measured = f"held-out {name}" if self.evaluation is None else short(self.evaluation)
        rows = {} if held is None else {measured: held.select(*kept)}
        evaluations = {set_: data.evaluation_batches(one, feed.batch_size, **shape) for set_, one in rows.items()}
        return (Task(name, source, evaluations, len(train), classes=train.classes, notes=tuple(notes)),)

    def examples(
        self, address: str, parts: Mapping[str, Any], model: Any, labelled: bool = True
    ) -> tuple[Dataset, list[str]]:
        """The examples in the fields that the model reads, with a ``key`` of each, and what to say of them.

        Args:
          address: as for the spec.
          parts: of `encoders_of`.
          model: that reads them.
          labelled: whether a classifier's examples have labels.
        """
        collected = self._raw(address, {name: _file(name, parts[name], self) for name in parts if name in FILES})
        found, notes = collected.dataset, left_out(collected, address)
        for name in FILES:
            if name not in parts and getattr(self, name) in found.columns:
                raise ValueError(
                    f"{address} has the column {printable(getattr(self, name))} and the model reads {listed(parts)}; "
                    f"give it an encoder with --model.modalities {' '.join([*parts, name])}, or drop the column"
                )
        if "text" in parts:
            found = self._with_text(found, address, model)
        if getattr(model.config, "classes", None) is None:
            self._check_pairs(found, parts, collected.examples, address)
        elif labelled:
            found = self._labels(found)
        keys = [
            label if isinstance(label, str) else json.dumps(row, sort_keys=True, default=str)
            for label, row in zip(collected.examples, self._rows(address, collected.examples), strict=True)
        ]
        if not _nested(model):
            sides = {"images": _field(found, "image", "images"), "input_ids": _field(found, "text", "input_ids")}
            found = Dataset(sides)
        return found.with_columns(key=keys), notes

    def _raw(self, address: str, files: Mapping[str, Any]) -> data.Collected:
        tars = tars_of(address)
        if tars:
            return data.shards(tars, files, broken=self.broken, texts=True)
        if address.startswith("tfds:"):
            return of_tfds(address, files)
        return data.referenced(address, files, broken=self.broken, texts=(self.text, *TEXTS))

    def _rows(self, address: str, examples: Sequence[int | str]) -> list[Mapping[str, Any]]:
        """What the table says in the rows of examples; nothing of a tar's, whose keys say it."""
        if tars_of(address):
            return [{} for _ in examples]
        if address.startswith("tfds:"):
            found = data.load(address)
            words = [name for name in found.columns if name not in ("images", "audio")]
            return [{"row": row} | found.select(*words)[row] for row in examples]
        columns = read_table(assets.resolve(address)).columns
        return [{name: column[row] for name, column in columns.items()} for row in examples]

    def _with_text(self, found: Dataset, address: str, model: Any) -> Dataset:
        column = self.text or next((name for name in TEXTS if name in found.columns), TEXTS[0])
        if column not in found.columns:
            raise KeyError(
                f"{address} has no column {printable(column)} for 'text'; it has {listed(found.columns)}; name it with "
                "--data.text, or leave text out of --model.modalities"
            )
        texts = ["" if value is None or value != value else value for value in found.column(column)]
        there = [isinstance(text, str) and bool(text.strip()) for text in texts]
        wrong = next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(
                f"{address}, example {wrong}: {printable(texts[wrong], 40)} in column {printable(column)} is no text; "
                "correct it, or name another column with --data.text"
            )
        if not any(there):
            raise ValueError(f"{address} has no text in column {printable(column)}; fill it, or name another one")
        tokenizer, most = tokenizer_of(model), self._room(model)
        given = Dataset({"text": [text for text, seen in zip(texts, there, strict=True) if seen]})
        tokens = data.tokenize(given, tokenizer, length=most, too_long=self.too_long)
        ids = iter(tokens.column("input_ids"))
        made = [next(ids) if seen else np.zeros(0, np.int32) for seen in there]
        part = [{"input_ids": one, PRESENT: np.float32(seen)} for one, seen in zip(made, there, strict=True)]
        kept = {name: values for name, values in found.columns.items() if name != column}
        return Dataset({**kept, "text": part}, found.classes)

    def _room(self, model: Any) -> int:
        positions = encoders_of(model)["text"].positions
        return min(self.length, positions)

    def shape(self, parts: Mapping[str, Any], model: Any, sets: Iterable[Dataset]) -> dict[str, Any]:
        """The length of a batch's rows of tokens, the same for all of the sets."""
        if "text" not in parts:
            return {}
        column = "text" if _nested(model) else "input_ids"
        longest = max(
            len(one["input_ids"] if _nested(model) else one) for found in sets for one in found.column(column)
        )
        length = min(-(-max(longest, 1) // MULTIPLE) * MULTIPLE, self._room(model))
        return {"length": length, "padding": model.pad_token}

    def _alone(self, address: str) -> Dataset:
        """What a table or tars say without their files."""
        tars = tars_of(address)
        if tars:
            return data.shards(tars, {}).dataset
        if address.startswith("tfds:"):
            return data.load(address).select("labels")
        columns = read_table(assets.resolve(address)).columns
        return Dataset({"labels" if name == "label" else name: column for name, column in columns.items()})

    def _labels(self, found: Dataset) -> Dataset:
        if "labels" not in found.columns:
            raise KeyError(
                f"{self.address} has no column 'label', which a classifier learns; add it, or compare the modalities "
                "with ft-jax run own/match"
            )
        if found.classes:
            return found
        where = lambda place: f"{self.address}, example {place}"  # noqa: E731
        labels, classes = read_labels(list(found.column("labels")), where, False)
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise ValueError(f"{self.address} has labels that are no classes, such as {printable(labels[0], 40)}")
        return dataclasses.replace(found.with_columns(labels=labels), classes=classes)

    def _check_pairs(self, found: Dataset, parts, examples, address: str) -> None:
        if len(parts) < 2:
            raise ValueError(f"the model reads {listed(parts)} alone, and a pair has two sides; give it two modalities")
        for name in parts:
            for label, one in zip(examples, found.column(name), strict=True):
                if not one[PRESENT]:
                    raise ValueError(
                        f"{address}, example {label} has no {name}, and a pair is compared side by side; fill it, or "
                        "drop the row"
                    )


def encoders_of(model: Any) -> dict[str, Any]:
    """By modality the configuration of the model's encoder for it.

    Raises:
      ValueError: a model of one kind of input.
    """
    config = model.config
    if hasattr(config, "encoders"):
        return {name: encoder.config for name, encoder in config.encoders}
    if hasattr(config, "vision") and hasattr(config, "text"):
        return {"image": config.vision, "text": config.text}
    raise ValueError(
        f"{type(config).__name__} reads one kind of input, and the data has several; give the run a model of several, "
        "such as that of own/match"
    )


def left_out(collected: data.Collected, address: str) -> list[str]:
    """How many examples were left out, and why the first was; nothing where none was."""
    if not collected.skipped:
        return []
    first, count = collected.skipped[0], len(collected.skipped)
    return [
        f"{count} of {count + len(collected.dataset)} examples of {short(address)} were left out, the first is "
        f"{first.example}: {first.reason}"
    ]


def of_tfds(address: str, files: Mapping[str, Any]) -> data.Collected:
    """Examples of a set of tensorflow-datasets, its images at the model's size.

    Raises:
      KeyError: the set has no images.
      ValueError: a modality that it can't give.
    """
    found = data.load(address)
    parts = {}
    for name, part in files.items():
        if name != "image":
            raise ValueError(
                f"{address} gives images and texts, and the model reads {printable(name)}; write its files"
            )
        images = data.check_columns(found, ["images"], address).column("images")

        def pixels(index, images=images, part=part):
            return {part.field: resized(images[index], part.size, part.channels), PRESENT: np.float32(1)}

        parts[name] = data.Computed(len(found), pixels)
    rest = {name: column for name, column in found.columns.items() if name != "images"}
    return data.Collected(Dataset({**parts, **rest}, found.classes), (), tuple(range(len(found))))


def tars_of(address: str) -> list[Path]:
    """The tars that an address names, by a pattern or alone; none where it names a table.

    Raises:
      FileNotFoundError: a pattern that no file fits.
    """
    if not str(address).endswith(".tar"):
        return []
    if "*" not in str(address):
        return [assets.resolve(address)]
    path = Path(address)
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise FileNotFoundError(f"no file fits {printable(str(address))}; give the tars' folder and a pattern")
    return found


def _nested(model: Any) -> bool:
    """Whether a batch has a part for each modality, or the fields of a model with two towers."""
    return hasattr(model.config, "encoders")


def _file(name: str, config: Any, spec: Together) -> Any:
    column = FILES[name] if tars_of(spec.address) else getattr(spec, name)
    if name == "image":
        *size, channels = config.image
        return data.Image(column, tuple(size), channels)
    return data.Audio(column, 16000, config.samples)


def _field(found: Dataset, part: str, field: str) -> data.Computed:
    column = found.column(part)
    return data.Computed(len(column), lambda index: column[index][field])
