"""Prompts with an answer that can be checked, for learning from rewarded answers."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax import data
from ft_jax.data.chats import render
from ft_jax.data.dataset import Dataset
from ft_jax.outside import printable
from ft_jax.rl.online import exact_match, numerically_equal, on_host
from ft_jax.training.composition import Parts
from ft_jax.training.own_data.held_out import check_address, train_and_evaluation
from ft_jax.training.own_data.rows import one_task, room, tokenizer_of
from ft_jax.training.stream import Feed, Stream

CHECKS = {"exact": exact_match, "number": numerically_equal}
"""What an answer's text is compared by, ``(text, answer) -> 1 or 0``."""


@dataclasses.dataclass(frozen=True)
class Questions:
    """Prompts with the right answer: ``prompt``, a text or messages, and ``answer``, a text or a number.

    A batch has ``input_ids``, ``attention_mask`` and ``answer``, the right answer's characters (`characters`), which
    `Verified` reads. A text is read as it is, messages are written by the tokenizer's chat template.

    Attributes:
      address: a file, or another address, see `ft_jax.data.load`.
      evaluation: another file to measure on; None holds back `held_out` of the first.
      held_out: the share of the file that is measured on and not trained on.
      length: the most tokens of a prompt; a longer one is refused, for half a question is another one.
    """

    address: str = ""
    evaluation: str | None = None
    held_out: float = 0.1
    length: int = 256

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        check_address(self, "questions.jsonl")

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, held = train_and_evaluation(self.address, self.evaluation, self.held_out)
        sets = [one for one in (train, held) if one is not None]
        for one in sets:
            data.check_columns(one, ("prompt", "answer"), self.address)
        most = max(len(told(answer)) for one in sets for answer in one.columns["answer"])

        def tokens(examples: Dataset, model: Any, address: str) -> Dataset:
            return self._tokens(examples, model, address, most)

        return one_task(self, train, held, tokens, model, feed)

    def _tokens(self, examples: Dataset, model: Any, address: str, most: int) -> Dataset:
        tokenizer, prompts = tokenizer_of(model), list(examples.columns["prompt"])
        chats = [not isinstance(prompt, str) for prompt in prompts]
        if any(chats) and not all(chats):
            raise ValueError(f"{address} has prompts that are texts and others that are messages; make all of one kind")
        for prompt, answer in zip(examples.columns["prompt"], examples.columns["answer"], strict=True):
            if not told(answer):
                raise ValueError(
                    f"{address} has no answer to the prompt {printable(prompt, 40)}; give it one, or drop the row"
                )
        if any(chats):
            prompts = [render(tokenizer, prompt, generate=True) for prompt in prompts]
        texts = Dataset({"text": prompts})
        ids = data.tokenize(texts, tokenizer, length=room(self, model), special=not any(chats)).columns["input_ids"]
        answers = np.stack([characters(told(answer), most) for answer in examples.columns["answer"]])
        return Dataset({"input_ids": ids, "answer": answers})


def told(answer: Any) -> str:
    """A right answer as text.

    Example:
      >>> told(7.0), told(" 7 ")
      ('7', '7')
    """
    if isinstance(answer, float | np.floating) and float(answer).is_integer():
        return str(int(answer))
    return "" if answer is None else str(answer).strip()


def characters(text: str, most: int) -> np.ndarray:
    """A text as the numbers of its characters, int32 ``[most]`` with 0 after its end.

    Example:
      >>> characters("7a", 3).tolist(), text_of(np.array([55, 97, 0]))
      ([55, 97, 0], '7a')
    """
    return np.array([*map(ord, text), *[0] * (most - len(text))], np.int32)


def text_of(numbers: np.ndarray) -> str:
    """The text of `characters`."""
    return "".join(chr(one) for one in np.asarray(numbers).tolist() if one)


@dataclasses.dataclass(frozen=True)
class Verified:
    """A reward that is 1 where an answer's text is right and 0 elsewhere, an option of `ft_jax.rl.grpo`.

    Attributes:
      by: ``"exact"``, the text is the answer and nothing else, or ``"number"``, its last number is.

    Example:
      >>> Verified("nearly").check()
      Traceback (most recent call last):
      ValueError: Verified compares by 'nearly'; use 'exact' or 'number'
    """

    by: str = "exact"

    def check(self) -> None:
        """Raises ValueError on a way to compare that there isn't."""
        if self.by not in CHECKS:
            raise ValueError(f"Verified compares by {printable(self.by)}; use {' or '.join(map(repr, CHECKS))}")

    def for_run(self, parts: Parts) -> Any:
        """The reward, with the tokenizer of the run's model.

        Raises:
          ValueError: the data has no answers, or one is no number where numbers are compared.
        """
        self.check()
        tokenizer, right = tokenizer_of(parts.model), CHECKS[self.by]
        if "answer" not in parts.example:
            raise ValueError("a verified reward reads 'answer' of the data, which has none; take Questions, or add it")
        if self.by == "number":
            for row in np.asarray(parts.example["answer"]):
                number_of(text_of(row))

        def score(rows):
            return [
                right(tokenizer.decode(one.tokens, skip_special_tokens=True), wanted_of(one, self.by)) for one in rows
            ]

        return on_host(score, name=f"verified by {self.by}")


def wanted_of(one: Any, by: str) -> Any:
    """What a scored answer is compared with."""
    text = text_of(one.fields["answer"])
    return number_of(text) if by == "number" else text


def number_of(text: str) -> float:
    """The number that a right answer is.

    Raises:
      ValueError: it is none.
    """
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise ValueError(
            f"the answer {printable(text, 40)} is no number; correct it, or compare by 'exact', such as "
            "--method.rl.grpo.reward.by exact"
        ) from None


def rewarded(outputs: Any, batch: Any) -> Any:
    """The reward of each answer of an evaluation, for ``Experiment.predict``; 0 where there is none."""
    return batch["reward"] if "reward" in batch else jnp.zeros(outputs.hidden.shape[0])


def mean_reward(predictions: Any, batch: Any) -> Any:
    """The metric of `rewarded`: the share of right answers, rows that fill up a batch left out."""
    weights = batch.get("weights")
    if weights is None or weights.ndim != 1:
        return predictions.sum(), predictions.shape[0]
    return (weights * predictions).sum(), weights.sum()
