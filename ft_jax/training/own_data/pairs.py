"""Pairs of texts whose embeddings should be close, or as close as a score says."""

import dataclasses
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.data.dataset import Dataset
from ft_jax.outside import listed, printable
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.own_data.rows import one_task, room, tokenizer_of
from ft_jax.training.stream import Feed, Stream

FORMS = (("anchor", "positive"), ("sentence1", "sentence2"), ("query", "passage"))
"""The columns of the two texts where the spec names none."""

SCORES = ("score", "labels")
"""The columns of the score where the spec names none; ``label`` is read as ``labels``."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Two texts an example: ``anchor`` and ``positive``, ``sentence1`` and ``sentence2``, or ``query`` and ``passage``.

    With a number in the column ``score`` (or ``label``) the cosine of the two embeddings learns to be it; without one
    the other pairs of a batch are what a text is told from, see `ft_jax.training.paired`.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of a text, and no more than the model takes.
      too_long: ``"truncate"`` or ``"error"`` where a text has more.
      first, second: the columns of the texts, where they are called otherwise.
      score: the column of the score, where it is called otherwise; ``"none"`` leaves scores alone.
      largest: scores are divided by it, so that 1 is the same meaning, such as 5 of a file with scores up to 5.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 128
    too_long: str = "truncate"
    first: str = ""
    second: str = ""
    score: str = ""
    largest: float = 1.0

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "pairs.csv")
        if bool(self.first) != bool(self.second):
            raise ValueError(
                f"data.first is {printable(self.first)} and data.second {printable(self.second)}; name both columns or "
                "none"
            )
        if not self.largest > 0:
            raise ValueError(f"data.largest is {self.largest}; give the score of two texts that mean the same")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        stream = one_task(self, train, held, self._tokens, model, feed)
        if min(feed.batch_size, len(train)) < 2 and self._score(train) is None:
            raise ValueError("pairs without a score are told from others of a batch; give budget.batch_size above 1")
        return stream

    def _columns(self, examples: Dataset, address: str) -> tuple[str, str]:
        forms = ((self.first, self.second),) if self.first else FORMS
        fits = [form for form in forms if set(form) <= examples.columns.keys()]
        if len(fits) == 1:
            return fits[0]
        told = " or ".join(" and ".join(map(repr, form)) for form in fits or forms)
        if fits:
            raise ValueError(
                f"{address} has {told}, of which one must be meant; name them with data.first and data.second"
            )
        raise ValueError(
            f"{address} has the columns {listed(examples.columns)} and Pairs reads {told}; rename some, or "
            "name them with data.first and data.second"
        )

    def _score(self, examples: Dataset) -> str | None:
        if self.score == "none":
            return None
        if self.score:
            data.check_columns(examples, (self.score,), self.address)
            return self.score
        return next((name for name in SCORES if name in examples.columns), None)

    def _tokens(self, examples: Dataset, model: Any, address: str) -> Dataset:
        first, second = self._columns(examples, address)
        score = self._score(examples)
        for side, other in ((first, second), (second, first)):
            for text, beside in zip(examples.columns[side], examples.columns[other], strict=True):
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(
                        f"{address} has no {side} beside the {other} {printable(beside, 40)}; fill or drop the row"
                    )
        sides = [
            data.tokenize(
                examples.select(side), tokenizer_of(model), text=side, length=room(self, model), too_long=self.too_long
            ).columns["input_ids"]
            for side in (first, second)
        ]
        columns = {"input_ids": sides[0], "paired": [{"input_ids": ids} for ids in sides[1]]}
        if score is not None:
            columns["labels"] = self._scores(examples, score, address, first)
        return Dataset(columns)

    def _scores(self, examples: Dataset, name: str, address: str, first: str) -> np.ndarray:
        values = np.asarray(examples.columns[name])
        if (examples.classes and name == "labels") or values.dtype.kind not in "iuf" or values.ndim != 1:
            raise ValueError(
                f"{address} has {name} {printable(values[0], 40)}, which is no score; name a column of numbers with "
                "data.score, or give data.score none to learn from the pairs alone"
            )
        scores = values.astype(np.float32) / self.largest
        if not (np.abs(scores) <= 1).all():
            place = int(np.argmax(~(np.abs(scores) <= 1)))
            raise ValueError(
                f"{address} has the {name} {values[place]:g} beside the {first} "
                f"{printable(examples.columns[first][place], 40)}, and a cosine is from -1 to 1; give data.largest the "
                "score of two texts that mean the same"
            )
        return scores
