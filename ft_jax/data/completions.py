"""Supervised examples for decoders: plain text, prompt and completion, and chat."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.chats import exchange_parts, marked, marked_tokens, written_parts
from ft_jax.data.checks import check_not_empty
from ft_jax.data.dataset import Dataset, columns_of
from ft_jax.data.tokens import check_policy, encode, ended, surroundings, without_opening
from ft_jax.outside import listed

IGNORED = -1
"""The label of a position that has no target."""

POLICIES = ("error", "truncate", "drop")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One example's tokens ``ids [time]``, and which of them the model is to learn, ``learned [time]``."""

    ids: np.ndarray
    learned: np.ndarray


def next_tokens(
    dataset: Dataset,
    tokenizer: Any,
    *,
    length: int,
    too_long: str = "error",
    learn_prompt: bool = False,
    end: int | None = None,
) -> Dataset:
    """Next-token examples of their own lengths: ``input_ids``, ``labels`` and ``weights``.

    The columns of the data set decide what an example is: ``messages`` (a list of ``{"role", "content"}``, written
    by the tokenizer's chat template; the assistant's turns are learned), ``prompt`` and ``completion`` (texts, or
    lists of messages; the completion is learned), or ``text`` (all of it is learned). Texts get the tokenizer's opening
    tokens before them and the end token after them, each once, also where the tokenizer or the text has them already.
    A prompt is tokenized apart from what follows it, as it is when the model generates.

    Args:
      dataset: of one of those forms.
      tokenizer: a ``transformers`` tokenizer, or, for texts, a ``tokenizers.Tokenizer``.
      length: the most tokens of an example.
      too_long: ``"error"``, ``"truncate"`` (the end is cut) or ``"drop"``; the last two warn with their number.
      learn_prompt: whether prompts count too.
      end: id of the end token; by default the tokenizer's own where it has one.

    Raises:
      KeyError: the data set is of none of the forms.
      ValueError: it is empty; an example is too long, has no turn of the assistant, or after the cut nothing to
        learn; the tokenizer has no chat template.
    """
    check_not_empty(dataset)
    if "messages" in dataset.columns:
        examples = conversations(tokenizer, dataset.columns["messages"])
    elif {"prompt", "completion"} <= dataset.columns.keys():
        examples = completions(tokenizer, dataset.columns["prompt"], dataset.columns["completion"], end)
    elif "text" in dataset.columns:
        examples = completions(tokenizer, [""] * len(dataset), dataset.columns["text"], end)
    else:
        raise KeyError(
            f"the data set has the columns {listed(dataset.columns)}; "
            "it needs 'text', or 'prompt' and 'completion', or 'messages', so rename some"
        )
    kept = limited([(one,) for one in examples], length, too_long)
    records = [shifted(one.ids, np.ones_like(one.learned) if learn_prompt else one.learned) for (one,) in kept]
    return Dataset(columns_of(records, ("input_ids", "labels", "weights")))


def shifted(ids: np.ndarray, learned: np.ndarray) -> dict[str, np.ndarray]:
    """Fields of a next-token example: ``labels[t] = input_ids[t + 1]``, and weight 1 where that token is learned.

    A position without a target, the last one too, has label -1 and weight 0.

    Args:
      ids: ``[time]``.
      learned: bool ``[time]``, True at tokens that the model should produce.

    Example:
      >>> fields = shifted(np.array([5, 6, 7]), np.array([False, True, True]))
      >>> fields["labels"], fields["weights"]
      (array([ 6,  7, -1], dtype=int32), array([1., 1., 0.], dtype=float32))
    """
    ids = np.asarray(ids, dtype=np.int32)
    weights = np.append(np.asarray(learned, dtype=np.float32)[1:], np.float32(0))
    labels = np.where(weights > 0, np.append(ids[1:], IGNORED), IGNORED)
    return {"input_ids": ids, "labels": labels.astype(np.int32), "weights": weights}


def completions(tokenizer: Any, prompts: Sequence, answers: Sequence, end: int | None = None) -> list[Tokens]:
    """Tokens of prompts and what follows them, both texts or both lists of messages.

    Raises:
      ValueError: one of a pair is a text and the other a list of messages; the tokenizer has no chat template.
    """
    chats = [not isinstance(answer, str) for answer in answers]
    for place, (prompt, chat) in enumerate(zip(prompts, chats, strict=True)):
        if isinstance(prompt, str) == chat:
            raise ValueError(
                f"example {place} has a prompt of type {type(prompt).__name__} and an answer of type "
                f"{type(answers[place]).__name__}; make both texts or both lists of messages"
            )
    if any(chats):
        pairs = enumerate(zip(prompts, answers, strict=True))
        return _joined(tokenizer, [exchange_parts(tokenizer, *pair, f"example {place}") for place, pair in pairs])
    end = getattr(tokenizer, "eos_token_id", None) if end is None else end
    opening, _ = surroundings(tokenizer)
    before = [without_opening(one.ids, opening) for one in encode(tokenizer, prompts, special=False)]
    after = [without_opening(one.ids, opening) for one in encode(tokenizer, answers, special=False)]
    return [_tokens([(opening, False), (p, False), (ended(a, end), True)]) for p, a in zip(before, after, strict=True)]


def conversations(tokenizer: Any, dialogues: Sequence[Sequence[Mapping]]) -> list[Tokens]:
    """Tokens of whole conversations, of which the assistant's turns are learned.

    What a template marks as the model's (``{% generation %}``) is learned; without marks the turns are found in the
    whole rendering, see `ft_jax.data.chats.written_parts`.

    Raises:
      ValueError: a conversation has no turn of the assistant; the tokenizer has no chat template, or one in whose
        rendering a turn is not found.
    """
    if marked(tokenizer):
        found = [marked_tokens(tokenizer, one, f"example {place}") for place, one in enumerate(dialogues)]
        return [Tokens(np.asarray(ids, np.int32), np.asarray(learned)) for ids, learned in found]
    return _joined(
        tokenizer, [written_parts(tokenizer, one, f"example {place}") for place, one in enumerate(dialogues)]
    )


def _joined(tokenizer: Any, pieces: Sequence[Sequence[tuple[str, bool]]]) -> list[Tokens]:
    """Every example's pieces tokenized apart from each other; the template has written the special tokens itself."""
    encoded = iter(encode(tokenizer, [text for parts in pieces for text, _ in parts], special=False))
    return [_tokens([(next(encoded).ids, learned) for _, learned in parts]) for parts in pieces]


def _tokens(parts: Sequence[tuple[np.ndarray, bool]]) -> Tokens:
    ids = np.concatenate([ids for ids, _ in parts]).astype(np.int32)
    return Tokens(ids, np.concatenate([np.full(len(ids), learned) for ids, learned in parts]))


def limited(examples: Sequence[tuple[Tokens, ...]], length: int, too_long: str) -> list[tuple[Tokens, ...]]:
    """Examples, each of one or more sequences, brought to at most ``length`` tokens by the policy ``too_long``.

    Raises:
      ValueError: a sequence is too long and the policy is ``"error"``; or the cut leaves it nothing to learn.
    """
    check_policy(too_long, POLICIES)
    sizes = [max(len(one.ids) for one in example) for example in examples]
    long = [place for place, size in enumerate(sizes) if size > length]
    if long and too_long == "error":
        raise ValueError(
            f"{len(long)} of {len(examples)} examples are longer than {length} tokens, the first is example {long[0]} "
            f"with {sizes[long[0]]}; raise length, or pass too_long='truncate' or 'drop'"
        )
    if long:
        done = "cut to" if too_long == "truncate" else "dropped for being over"
        warnings.warn(f"{len(long)} of {len(examples)} examples were {done} {length} tokens", stacklevel=3)
    if too_long == "drop":
        return [example for example, size in zip(examples, sizes, strict=True) if size <= length]
    cut = [tuple(Tokens(one.ids[:length], one.learned[:length]) for one in example) for example in examples]
    for place in long:
        if not all(one.learned[1:].any() for one in cut[place]):
            raise ValueError(
                f"example {place} has nothing left to learn in {length} tokens, its prompt fills them; "
                "raise length, or pass too_long='drop'"
            )
    return cut
