"""Models and data that experiments name: frozen values that build when a run starts."""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.data.description import summary
from ft_jax.training.objective import NUMBERS
from ft_jax.training.stream import Feed, Stream, Task


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model from an address, with a new classifier where `classes` is given.

    Attributes:
      address: ``pkg://NAME==VERSION/member``, ``hf://org/model`` or a path.
      classes: outputs of a new head; ``"data"`` for as many as the data has, None keeps the model's own output.
      pooling: one vector an example for the new head, see `ft_jax.models.with_classifier`.
      dtype: compute type; None for float32.
      dropout: rate on hidden states; 0 turns all dropout off, attention's too, None keeps the configuration's.
      scan: whether layers run in one scan; None for where they are many, see `ft_jax.models.load`.
      remat: what the backward pass computes again, ``"none"``, ``"dots"`` or ``"full"``; None for nothing.
      head: the kind of the new head, ``"classification"`` or ``"regression"``.
      added_tokens: texts that the tokenizer is to take as one token each, see `ft_jax.models.with_tokens`.
    """

    address: str = ""
    classes: int | Literal["data"] | None = None
    pooling: str = "mean"
    dtype: str | None = None
    dropout: float | None = None
    scan: bool | None = None
    remat: str | None = None
    head: str = "classification"
    added_tokens: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong before the files are read."""
        if not self.address:
            raise ValueError("model.address names no model; give it, such as --model.address hf://org/model")
        if isinstance(self.classes, int) and self.classes < 1:
            raise ValueError(f"model.classes is {self.classes}; a head needs at least 1 output")

    def for_data(self, spec: Any) -> "Pretrained":
        """With as many classes as the data has, where they are to be those.

        Raises:
          ValueError: the data doesn't say how many it has.
        """
        if self.classes != "data":
            return self
        if not hasattr(spec, "outputs"):
            raise ValueError(
                f"model.classes is 'data', and {type(spec).__name__} doesn't say how many it has; give a number"
            )
        return dataclasses.replace(self, classes=spec.outputs())

    def for_outputs(self, outputs: int) -> "Pretrained":
        """With a new head of so many outputs, which grows.

        Raises:
          ValueError: the model is to keep its own head.
        """
        if self.classes is None:
            raise ValueError(
                "the head grows with the classes of the stream, and model.classes is None, which keeps the model's own "
                "output; give model.classes 'data'"
            )
        return dataclasses.replace(self, classes=outputs)

    def base(self) -> dict[str, Any]:
        """Where the parameters come from that training leaves alone, see `ft_jax.training.serving`."""
        rows = {"added_tokens": list(self.added_tokens)} if self.added_tokens else {}
        return {"address": self.address, "dtype": self.dtype, "scan": self.scan, **rows}

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        model = models.load(self.address, dtype=self.dtype, abstract=key is None, scan=self.scan)
        if self.added_tokens:
            model = models.with_tokens(model, self.added_tokens)
        changes = {"dropout": self.dropout, "remat": self.remat}
        if self.dropout == 0 and hasattr(model.config, "attention_dropout"):
            changes["attention_dropout"] = 0.0
        model = model.configure(**{name: value for name, value in changes.items() if value is not None})
        if self.classes == "data":
            raise ValueError("model.classes is 'data', which only a run knows; give a number")
        if self.classes is None and self.head == "classification":
            return model
        return models.with_head(model, self.head, key, self.classes, self.pooling)


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A random multilayer perceptron on images, see `ft_jax.models.MLPConfig`."""

    image: tuple[int, int, int] = (8, 8, 1)
    widths: tuple[int, ...] = (64,)
    classes: int | None = 10
    dropout: float = 0.0

    def check(self) -> None:
        """Raises ValueError on widths that can't be."""
        wrong = [width for width in (*self.image, *self.widths) if width < 1]
        if wrong:
            raise ValueError(f"a perceptron has a width of {wrong[0]}; give sizes of at least 1")

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        return models.mlp(models.MLPConfig(self.image, self.widths, self.classes, dropout=self.dropout), key)


@dataclasses.dataclass(frozen=True)
class Untrained:
    """A random model of any configuration, such as `ft_jax.models.ViTConfig`."""

    config: Any

    def for_outputs(self, outputs: int) -> "Untrained":
        """With a head of so many outputs."""
        if not hasattr(self.config, "classes"):
            raise ValueError(
                f"the head grows with the classes of the stream, and {type(self.config).__name__} has none; take a "
                "model of images, or Pretrained with classes"
            )
        return Untrained(dataclasses.replace(self.config, classes=outputs))

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        return models.build(self.config, key)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Text classification: one task for each address, in order.

    Attributes:
      addresses: data sets with columns ``text`` and ``labels``, see `ft_jax.data.load`.
      length: the most tokens of a text; longer ones are refused, or cut where `too_long` is ``"truncate"``.
      too_long: ``"error"`` or ``"truncate"``.
      labelled: use so many training examples a task, drawn by the run's seed with each class's share; None for all.
      unlabelled: an address of texts whose batches become the part ``"unlabelled"``, or None.
      unlabelled_batch: examples of that part; the batch size by default.
      split: the split that evaluation reads.
      buckets: shorter lengths that a batch is padded to where its texts allow; each is compiled for.
      quotes: whether ``"`` encloses fields of a csv or tsv, see `ft_jax.data.from_file`.
    """

    addresses: tuple[str, ...] = ("sentiment:movies",)
    length: int = 64
    too_long: str = "truncate"
    labelled: int | None = None
    unlabelled: str | None = None
    unlabelled_batch: int | None = None
    split: str = "validation"
    buckets: tuple[int, ...] = ()
    quotes: bool | None = None

    def check(self) -> None:
        """Raises ValueError where no data set is named."""
        if not self.addresses:
            raise ValueError("data.addresses names no data; give it, such as --data.addresses first.csv second.csv")

    def outputs(self) -> int:
        """How many outputs a head for the data sets needs: their classes together, 1 for a number an example."""
        sets = {address: data.load(address, None, self.quotes) for address in self.addresses}
        found = data.one_mapping(sets)
        named = max(len(one.classes) for one in found.values())
        labels = [np.asarray(one.column("labels")) for one in found.values()]
        if named or labels[0].ndim == 2:
            return named or labels[0].shape[1]
        return 1 if labels[0].dtype.kind == "f" else 1 + max(int(one.max()) for one in labels)

    def build(self, model: Any, feed: Feed) -> Stream:
        """The tasks, with one numbering of classes; every evaluation set is measured after each."""
        sets = {
            f"{address} ({split})": data.load(address, split, self.quotes)
            for address in self.addresses
            for split in ("train", self.split)
        }
        sets = {name: data.check_columns(one, ("text", "labels"), name) for name, one in sets.items()}
        sets = data.one_mapping(sets, getattr(model, "classes", ()), classes_of(model))
        evaluations = {
            short(address): self._evaluation(sets[f"{address} ({self.split})"], model, feed)
            for address in self.addresses
        }
        return tuple(
            self._task(address, sets[f"{address} (train)"], evaluations, model, feed) for address in self.addresses
        )

    def _task(self, address, train, evaluations, model, feed):
        train = check_targets(train, model)
        train = train if self.labelled is None else data.sample(train, self.labelled, feed.seed)
        source = data.batches(
            self._tokens(train, model), feed.batch_size, seed=feed.seed, **self._shape(model), **share(feed)
        )
        if self.unlabelled is not None:
            texts = self._tokens(texts_of(self.unlabelled).select("text"), model)
            source = beside(source, texts, self.unlabelled_batch, feed, **self._shape(model))
        about = summary(train)
        once = self._evaluation(train, model, feed)
        return Task(short(address), source, evaluations, len(train), once=once, classes=train.classes, columns=about)

    def _evaluation(self, examples, model, feed):
        tokens = self._tokens(check_targets(examples, model), model)
        return data.evaluation_batches(tokens, feed.batch_size, **self._shape(model))

    def _tokens(self, examples, model):
        kept = [name for name in ("text", "labels") if name in examples.columns]
        return data.tokenize(examples.select(*kept), model.tokenizer, length=self.length, too_long=self.too_long)

    def _shape(self, model):
        return {"length": (*self.buckets, self.length), "padding": model.pad_token}


@dataclasses.dataclass(frozen=True)
class Images:
    """Image classification; all at once, or by groups of classes as tasks.

    Attributes:
      address: a data set with columns ``images`` and ``labels``, see `ft_jax.data.load`.
      groups: classes of each task, such as ``((0, 1), (2, 3))``; empty for one task of all.
      labelled: use so many training examples a task, drawn by the run's seed with each class's share; None for all.
      split: the split that evaluation reads.
    """

    address: str = "digits"
    groups: tuple[tuple[int, ...], ...] = ()
    labelled: int | None = None
    split: str = "test"

    def build(self, model: Any, feed: Feed) -> Stream:
        """The tasks; every task's evaluation set is measured after each."""
        sets = {split: data.load(self.address, split) for split in ("train", self.split)}
        sets = data.one_mapping(sets, getattr(model, "classes", ()), classes_of(model))
        train, test = (check_targets(sets[split], model) for split in ("train", self.split))
        parts = {"-".join(map(str, group)): group for group in self.groups} or {short(self.address): None}
        evaluations = {
            name: data.evaluation_batches(of_classes(test, group), feed.batch_size) for name, group in parts.items()
        }
        return tuple(self._task(name, of_classes(train, group), evaluations, feed) for name, group in parts.items())

    def _task(self, name, examples, evaluations, feed):
        examples = examples if self.labelled is None else data.sample(examples, self.labelled, feed.seed)
        source = data.batches(examples, feed.batch_size, seed=feed.seed, **share(feed))
        once = data.evaluation_batches(examples, feed.batch_size)
        about = summary(examples)
        return Task(name, source, evaluations, len(examples), once=once, classes=examples.classes, columns=about)


def check_targets(examples: data.Dataset, model: Any) -> data.Dataset:
    """The examples, whose class ids the model's head has; numbers to predict are any.

    Raises:
      ValueError: a class id that the head doesn't have.
    """
    labels = data.check_columns(examples, ["labels"]).columns["labels"]
    numbers = getattr(model.apply, "kind", None) in NUMBERS or classes_of(model) == 1
    if numbers or (isinstance(labels, np.ndarray) and labels.dtype.kind == "f"):
        return data.check_finite(examples)
    return data.check_labels(examples, classes_of(model))


def beside(source, examples: data.Dataset, size: int | None, feed: Feed, **shape):
    """`source` with batches of `examples` as the part ``"unlabelled"``, of the batch size where `size` is None."""
    other = data.batches(examples, size or feed.batch_size, seed=feed.seed + 1, **shape, **share(feed))
    return data.zip_streams(source, unlabelled=other)


def of_classes(examples: data.Dataset, group: tuple[int, ...] | None) -> data.Dataset:
    """The examples whose label is one of `group`; all where it is None."""
    if group is None:
        return examples
    return examples.take(np.flatnonzero(np.isin(np.asarray(examples.column("labels")), group)))


def texts_of(address: str) -> data.Dataset:
    """Training texts without labels; of a sentiment domain all sentences, neutral ones too."""
    kind, _, rest = address.partition(":")
    return data.unlabelled(rest, "train") if kind == "sentiment" else data.load(address, "train")


def share(feed: Feed) -> dict[str, int]:
    """This process's share of a stream."""
    return {"process": feed.process, "processes": feed.processes}


def short(address: str) -> str:
    """A data set's name for logs: what follows ``kind:``, or a file's stem."""
    return address.rpartition("/")[2].partition(".")[0].rpartition(":")[2]


def classes_of(model: Any) -> int | None:
    """How many classes a model's head has, or None without one."""
    head = model.params.get("head") if hasattr(model, "params") else None
    return None if head is None else head["kernel"].shape[1]
