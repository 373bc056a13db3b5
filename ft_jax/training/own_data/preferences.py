"""Pairs of answers of which one is preferred."""

import dataclasses
from typing import Any

from ft_jax import data
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.own_data.rows import one_task, room, tokenizer_of
from ft_jax.training.stream import Feed, Stream


@dataclasses.dataclass(frozen=True)
class Preferences:
    """Pairs of answers to one prompt, of which one is preferred: ``prompt``, ``chosen`` and ``rejected``.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of prompt and answer.
      too_long: ``"truncate"``, ``"drop"`` or ``"error"`` where they have more.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 512
    too_long: str = "truncate"

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "pairs.jsonl")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        return one_task(self, train, held, self._tokens, model, feed)

    def _tokens(self, examples, model, address):
        data.check_columns(examples, ("prompt", "chosen", "rejected"), address)
        return data.preferences(examples, tokenizer_of(model), length=room(self, model), too_long=self.too_long)
