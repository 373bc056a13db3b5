"""Texts with classes, or with numbers to predict."""

import dataclasses
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.own_data.rows import one_task, room, tokenizer_of
from ft_jax.training.specs import check_targets, classes_of
from ft_jax.training.stream import Feed, Stream


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts with classes, in one file or two; the classes are those of the data, by their names.

    Attributes:
      address: a file with columns ``text`` and ``label``, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of a text, and no more than the model takes.
      too_long: ``"truncate"`` or ``"error"`` where a text has more.
      labelled: use so many training examples, each class with its share; None for all.
      quotes: whether ``"`` encloses fields of a csv or tsv, see `ft_jax.data.from_file`.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 128
    too_long: str = "truncate"
    labelled: int | None = None
    quotes: bool | None = None

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "reviews.csv")

    def outputs(self) -> int:
        """How many classes the data has; 1 where it has numbers to predict."""
        train, held = self._sets((), None)
        labels = np.asarray(train.column("labels"))
        if labels.dtype.kind == "f":
            return labels.shape[1] if labels.ndim == 2 else 1
        return len(train.classes) or 1 + max(int(np.max(one.column("labels"))) for one in (train, held) if one)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = self._sets(getattr(model, "classes", ()), classes_of(model))
        train = train if self.labelled is None else data.sample(train, self.labelled, feed.seed)
        return one_task(self, train, held, self._tokens, model, feed)

    def _sets(self, classes, outputs):
        load = lambda address: data.load(address, None, self.quotes)  # noqa: E731
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out, load)
        sets = {"the training texts": train} | ({} if held is None else {"the evaluation texts": held})
        sets = {name: data.check_columns(one, ("text", "labels"), self.address) for name, one in sets.items()}
        sets = data.one_mapping(sets, classes, outputs)
        return sets["the training texts"], sets.get("the evaluation texts")

    def _tokens(self, examples, model, address):
        examples = check_targets(examples, model).select("text", "labels")
        return data.tokenize(examples, tokenizer_of(model), length=room(self, model), too_long=self.too_long)
