"""Text to learn to write: conversations, prompts with completions, documents."""

import dataclasses
import string
from typing import Any, ClassVar

import numpy as np

from ft_jax import data, models
from ft_jax.data.dataset import Dataset
from ft_jax.data.teacher_cache import open_cache
from ft_jax.distillation.privileged import SHOWN
from ft_jax.outside import listed, printable
from ft_jax.training.composition import Parts
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
      shown: what a teacher is shown in the prompt's place, a text with ``{prompt}`` and ``{completion}``, for
        `ft_jax.distillation.privileged`; of messages it takes the place of the last one before the completion.
      teacher: a folder that ``ft-jax cache-teacher`` has written for these rows, for
        `ft_jax.distillation.cached_logits`.
      teacher_tokenizer: the address of a teacher whose tokenizer writes every text a second time, for
        `ft_jax.distillation.uld`.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 512
    too_long: str = "truncate"
    learn_prompt: bool = False
    packed: bool = False
    shown: str | None = None
    teacher: str | None = None
    teacher_tokenizer: str | None = None

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("prompt", "completion"), ("text",))

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "chat.jsonl")
        self._check_shown()
        self._check_teacher_tokenizer()

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        beside = None
        if self.teacher is not None:
            cache = open_cache(self.teacher)
            cache.check_tokenizer(tokenizer_of(model))
            beside = cache.beside
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
        if self.teacher_tokenizer is not None:
            told = self._beside_teacher(told, examples, model)
        if self.shown is not None:
            return dataclasses.replace(told, columns={**told.columns, SHOWN: self._shown(examples, model, address)})
        told = in_pieces(told, room(self, model))
        return data.pack(told, room(self, model), model.pad_token) if self.packed else told

    def _most(self, model) -> int:
        """The most tokens of an example."""
        return room(self, model)

    def _check_shown(self) -> None:
        if self.shown is None:
            return
        fields = [field for _, field, _, _ in string.Formatter().parse(self.shown) if field is not None]
        if set(fields) - {"prompt", "completion"} or "completion" not in fields:
            raise ValueError(
                f"data.shown is {printable(self.shown)}; write {{prompt}} and {{completion}} where these are to stand, "
                "and nothing else in braces"
            )
        if self.packed or self.too_long == "drop":
            wrong = "packed" if self.packed else "too_long"
            raise ValueError(
                f"data.shown gives every row a text beside it, so rows are neither packed nor dropped; leave out "
                f"data.{wrong}"
            )

    def _check_teacher_tokenizer(self) -> None:
        if self.teacher_tokenizer is None:
            return
        wrong = {"packed": self.packed, "too_long": self.too_long == "drop", "learn_prompt": self.learn_prompt}
        for field, refused in wrong.items():
            if refused:
                raise ValueError(
                    "data.teacher_tokenizer writes every row's answer a second time, so rows are neither packed nor "
                    f"dropped and prompts are not learned; leave out data.{field}"
                )

    def _beside_teacher(self, told: Dataset, examples: Dataset, model: Any) -> Dataset:
        """The rows with the same texts as the teacher's tokenizer writes them, cut to as many tokens."""
        own, other = tokenizer_of(model), tokenizer_at(self.teacher_tokenizer)
        whole, most = data.next_tokens(examples, other, length=LONGEST), self._most(model)
        cut = {name: [row[:most] for row in column] for name, column in whole.columns.items()}
        return data.aligned_rows(told, Dataset(cut), own, other)

    def _shown(self, examples: Dataset, model: Any, address: str) -> list[dict[str, Any]]:
        """For each example the tokens up to its completion where the prompt is `shown`."""
        if not {"prompt", "completion"} <= examples.columns.keys():
            raise ValueError(
                f"{address} has the columns {listed(examples.columns)} and data.shown reads 'prompt' and 'completion'; "
                "rename some"
            )
        pairs = list(zip(examples.columns["prompt"], examples.columns["completion"], strict=True))
        prompts = [in_place(self.shown, prompt, completion) for prompt, completion in pairs]
        whole = Dataset({"prompt": prompts, "completion": [completion for _, completion in pairs]})
        tokens = data.next_tokens(whole, tokenizer_of(model), length=LONGEST).columns
        rows = []
        for place, (ids, labels) in enumerate(zip(tokens["input_ids"], tokens["labels"], strict=True)):
            row = np.asarray(ids)[: int(np.argmax(np.asarray(labels) >= 0)) + 1]
            if len(row) > self._most(model):
                raise ValueError(
                    f"{address} shows {len(row)} tokens in example {place}, more than the {self._most(model)} of "
                    "data.length; set it higher, or shorten data.shown"
                )
            rows.append({"input_ids": row})
        return rows


def tokenizer_at(address: str) -> Any:
    """The tokenizer of the model at an address, without its parameters.

    Raises:
      ValueError: it has none.
    """
    return tokenizer_of(models.load(address, abstract=True, strict=False))


@dataclasses.dataclass(frozen=True)
class CommonTokens:
    """The tokens that a run's model and a teacher have in common, an option of `ft_jax.distillation.uld`.

    Attributes:
      address: of the teacher.
    """

    address: str

    def for_run(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """``(student's ids, teacher's ids)``, see `ft_jax.data.common_tokens`."""
        return data.common_tokens(tokenizer_of(parts.model), tokenizer_at(self.address))


def in_place(shown: str, prompt: Any, completion: Any) -> Any:
    """A prompt, a text or messages, with what a teacher is shown in its place.

    Example:
      >>> in_place("{prompt} Such as: {completion}. Now you:", "2 + 2?", "4")
      '2 + 2? Such as: 4. Now you:'
    """
    if isinstance(prompt, str):
        return shown.format(prompt=prompt, completion=completion)
    *before, last = prompt
    told = completion if isinstance(completion, str) else completion[-1]["content"]
    return [*before, {**last, "content": shown.format(prompt=last["content"], completion=told)}]


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
        self._check_shown()
        self._check_teacher_tokenizer()


@dataclasses.dataclass(frozen=True)
class Documents(Written):
    """Plain ``text``, all of which is learned, long ones in pieces and short ones together in rows; see `Written`."""

    packed: bool = True

    forms: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "articles.jsonl")
        if self.teacher_tokenizer is not None:
            raise ValueError(
                "data.teacher_tokenizer stands beside rows of one text each, and Documents are cut into pieces; take "
                "Written"
            )

    def _most(self, model) -> int:
        return LONGEST
