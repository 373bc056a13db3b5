"""Text to learn to write: conversations, prompts with completions, documents."""

import dataclasses
from typing import Any, ClassVar

from ft_jax import data
from ft_jax.data.dataset import Dataset
from ft_jax.data.teacher_cache import open_cache
from ft_jax.outside import listed
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.own_data.rows import in_pieces, one_task, room, tokenizer_of
from ft_jax.training.stream import Feed, Stream

LONGEST = 2**31 - 1
"""Tokens of a document that is cut into pieces."""


@dataclasses.dataclass(frozen=True)
class Written:
    """Text to learn to write, in one file or two: what its columns say decides what is learned.

    ``messages`` (the assistant's turns are learned), ``prompt`` and ``completion`` (the completion is), or ``text``
    (all of it is), see `ft_jax.data.next_tokens`.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of an example, and no more than the model takes.
      too_long: ``"truncate"``, ``"drop"`` or ``"error"`` where one has more.
      learn_prompt: whether prompts are learned too.
      packed: several examples in one row of `length` tokens, that do not see each other.
      teacher: a folder that ``ft-jax cache-teacher`` has written for these rows, for
        `ft_jax.distillation.cached_logits`.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 512
    too_long: str = "truncate"
    learn_prompt: bool = False
    packed: bool = False
    teacher: str | None = None

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("prompt", "completion"), ("text",))

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "chat.jsonl")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        beside = None if self.teacher is None else open_cache(self.teacher).beside
        return one_task(self, train, held, self._tokens, model, feed, beside)

    def rows(self, model: Any) -> Dataset:
        """The rows of tokens that are trained on, as `model` reads them, in the data's order."""
        train, _ = train_and_evaluation(self.address, self.evaluation, self.held_out)
        return self._tokens(train, model, self.address)

    def _tokens(self, examples, model, address):
        if not any(set(form) <= examples.columns.keys() for form in self.forms):
            wanted = ", or ".join(" and ".join(map(repr, form)) for form in self.forms)
            raise ValueError(
                f"{address} has the columns {listed(examples.columns)} and {type(self).__name__} reads "
                f"{wanted}; rename some"
            )
        told = data.next_tokens(
            examples,
            tokenizer_of(model),
            length=self._most(model),
            too_long=self.too_long,
            learn_prompt=self.learn_prompt,
        )
        told = in_pieces(told, room(self, model))
        return data.pack(told, room(self, model), model.pad_token) if self.packed else told

    def _most(self, model) -> int:
        """The most tokens of an example."""
        return room(self, model)


@dataclasses.dataclass(frozen=True)
class Chats(Written):
    """Conversations: ``messages``, of which the assistant's turns are learned; see `Written`."""

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",),)


@dataclasses.dataclass(frozen=True)
class Completions(Written):
    """Prompts with what should follow: ``prompt`` and ``completion``, the completion is learned; see `Written`."""

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion"),)

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "answers.jsonl")


@dataclasses.dataclass(frozen=True)
class Documents(Written):
    """Plain ``text``, all of which is learned, long ones in pieces and short ones together in rows; see `Written`."""

    packed: bool = True

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "articles.jsonl")

    def _most(self, model) -> int:
        return LONGEST
