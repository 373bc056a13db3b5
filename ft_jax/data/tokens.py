"""Texts to token ids, with a tokenizer of ``transformers`` or of ``tokenizers``."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from ft_jax.data.checks import check_texts
from ft_jax.data.dataset import Dataset
from ft_jax.outside import printable


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One text's tokens.

    Attributes:
      ids: int32 ``[time]``.
      special: bool ``[time]``, True at tokens that the tokenizer adds around the text.
    """

    ids: np.ndarray
    special: np.ndarray

    def cut(self, length: int) -> "Encoded":
        """The first ``length`` tokens; special tokens at the text's end stay at the end.

        Example:
          >>> text = Encoded(np.array([101, 7, 8, 9, 102]), np.array([True, False, False, False, True]))
          >>> text.cut(4).ids
          array([101,   7,   8, 102])
        """
        if len(self.ids) <= length:
            return self
        closing = 0 if self.special.all() else int(np.argmin(self.special[::-1]))
        opening = max(length - closing, 0)
        keep = np.r_[0:opening, len(self.ids) - closing : len(self.ids)][:length]
        return Encoded(self.ids[keep], self.special[keep])


def encode(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[Encoded]:
    """Tokens of every text at its full length, whatever truncation and padding the tokenizer is set to.

    Args:
      tokenizer: a ``transformers`` tokenizer or a ``tokenizers.Tokenizer``; it isn't changed.
      texts: at least one.
      special: whether to add the tokenizer's special tokens around each text; where the text has them already, they
        are not added again.
    """
    texts = list(texts)
    if not texts:
        return []
    found = _encode(tokenizer, texts, special)
    return [_once(one) for one in found] if special else found


def _encode(tokenizer: Any, texts: list[str], special: bool) -> list[Encoded]:
    if isinstance(tokenizer, tokenizers.Tokenizer):
        whole = _unlimited(tokenizer)
        found = whole.encode_batch(texts, add_special_tokens=special)
        return [_encoded(one.ids, one.special_tokens_mask) for one in found]
    result = tokenizer(
        texts,
        add_special_tokens=special,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return [_encoded(*pair) for pair in zip(result["input_ids"], result["special_tokens_mask"], strict=True)]


def _once(text: Encoded) -> Encoded:
    """Without the tokens at the text's own ends that the tokenizer has put around it as well."""
    if not text.special.any() or text.special.all():
        return text
    first, last = int(np.argmin(text.special)), len(text.ids) - int(np.argmin(text.special[::-1]))
    body = without_opening(text.ids[first:last], text.ids[:first])
    body = without_opening(body[::-1], text.ids[last:][::-1])[::-1]
    ids = np.concatenate([text.ids[:first], body, text.ids[last:]])
    special = np.concatenate([text.special[:first], np.zeros(len(body), bool), text.special[last:]])
    return Encoded(ids, special)


def without_opening(ids: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Tokens without the opening ones they begin with.

    Example:
      >>> without_opening(np.array([1, 1, 7, 8]), np.array([1]))
      array([7, 8])
    """
    while len(opening) and np.array_equal(ids[: len(opening)], opening):
        ids = ids[len(opening) :]
    return ids


def ended(ids: np.ndarray, end: int | None) -> np.ndarray:
    """Tokens with the end token after them, once.

    Example:
      >>> ended(np.array([7, 8]), 2), ended(np.array([7, 2]), 2)
      (array([7, 8, 2]), array([7, 2]))
    """
    return ids if end is None or (len(ids) and ids[-1] == end) else np.append(ids, end).astype(ids.dtype)


def surroundings(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens that the tokenizer puts before and after a text."""
    (probe,) = _encode(tokenizer, ["a"], special=True)
    if probe.special.all():
        return probe.ids, probe.ids[:0]
    return probe.ids[: int(np.argmin(probe.special))], probe.ids[len(probe.ids) - int(np.argmin(probe.special[::-1])) :]


def _encoded(ids: Sequence[int], special: Sequence[int]) -> Encoded:
    return Encoded(np.asarray(ids, dtype=np.int32), np.asarray(special, dtype=bool))


def _unlimited(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def special_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokenizer's special tokens, sorted: those that masking must leave alone."""
    if isinstance(tokenizer, tokenizers.Tokenizer):
        added = tokenizer.get_added_tokens_decoder()
        return tuple(sorted(place for place, token in added.items() if token.special))
    return tuple(sorted(set(tokenizer.all_special_ids)))


def tokenize(
    dataset: Dataset,
    tokenizer: Any,
    *,
    text: str = "text",
    length: int,
    too_long: str = "error",
    special: bool = True,
) -> Dataset:
    """A data set with ``input_ids``, a list of int32 ``[time]`` of each example's own length, in place of its text.

    Padding comes later, when a batch is made, see `ft_jax.data.collate`.

    Args:
      dataset: with a column of texts.
      tokenizer: a ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
      text: that column's name.
      length: the most tokens that an example may have, special ones included.
      too_long: what happens to longer ones: ``"error"``, or ``"truncate"``, which warns with their number.
      special: whether the tokenizer adds its special tokens.

    Raises:
      KeyError: there is no such column.
      ValueError: the set is empty, a text is no text, or one is too long and ``too_long`` is ``"error"``.
    """
    texts = check_texts(dataset, text)
    encoded = fit(encode(tokenizer, texts, special), length, too_long)
    others = {name: column for name, column in dataset.columns.items() if name != text}
    return dataclasses.replace(dataset, columns={**others, "input_ids": [one.ids for one in encoded]})


def fit(encoded: Sequence[Encoded], length: int, too_long: str) -> list[Encoded]:
    """Sequences of at most ``length`` tokens.

    Raises:
      ValueError: one is longer and ``too_long`` is ``"error"``; or ``too_long`` is neither of its values.
    """
    check_policy(too_long)
    long = [place for place, one in enumerate(encoded) if len(one.ids) > length]
    if long and too_long == "error":
        raise ValueError(
            f"{len(long)} of {len(encoded)} texts are longer than {length} tokens, the first is example {long[0]} with "
            f"{len(encoded[long[0]].ids)}; raise length, or pass too_long='truncate' to cut them"
        )
    if long:
        warnings.warn(f"{len(long)} of {len(encoded)} texts were cut to {length} tokens", stacklevel=3)
    return [one.cut(length) for one in encoded]


def check_policy(too_long: str, allowed: Sequence[str] = ("error", "truncate")) -> None:
    """Refuse a policy for long sequences that isn't one of those allowed.

    Raises:
      ValueError: it isn't.
    """
    if too_long not in allowed:
        raise ValueError(
            f"too_long={printable(too_long)} is no policy for long texts; take one of {', '.join(map(repr, allowed))}"
        )
