"""Two tokenizers' tokens of one text, grouped where both have a boundary at the same byte."""

import dataclasses
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from ft_jax.data.dataset import Dataset
from ft_jax.data.tokens import special_ids

TAUGHT = "teacher_tokens"
"""The part of a batch with a text as the teacher's tokenizer writes it."""
GROUPS = "token_groups"
"""The number of each label's group, the same on both sides; 0 for a label without one."""

BLANK = "\u2581"
"""What sentencepiece writes for a space."""
BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
"""A single byte, as sentencepiece writes what has no token of its own."""


def aligned(own: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of two tokenizations stand for the same bytes: a group's number for each token, from 1 on.

    A group ends at the first byte where both sides have a token's end. Tokens of no bytes, which only one tokenizer
    may have, such as one that opens a text, are in no group (0), except that what follows the text on both sides, the
    end tokens, are one. A space that only one side puts before the text is no byte of it. Where the bytes differ, all
    that follows is in no group.

    Args:
      own, theirs: the bytes that each token stands for, in order.

    Example:
      >>> [one.tolist() for one in aligned([b"", b"hel", b"lo", b" you", b""], [b"hello", b" y", b"ou", b""])]
      [[0, 1, 1, 2, 3], [1, 2, 2, 3]]
    """
    sides = _same_start(list(own), list(theirs))
    ends = [np.cumsum([len(piece) for piece in side], dtype=np.int64) for side in sides]
    wide = [np.array([len(piece) > 0 for piece in side], bool) for side in sides]
    same = _same(*sides)
    common = np.intersect1d(*(end[real] for end, real in zip(ends, wide, strict=True)))
    common = common[common <= same]
    last = common[-1] if len(common) else 0
    groups = [
        np.where(real & (end <= last), 1 + np.searchsorted(common, end), 0).astype(np.int32)
        for end, real in zip(ends, wide, strict=True)
    ]
    after = [int(np.max(np.flatnonzero(found), initial=-1)) + 1 for found in groups]
    if len(common) and all(place < len(side) and not side[place] for place, side in zip(after, sides, strict=True)):
        for found, place in zip(groups, after, strict=True):
            found[place] = len(common) + 1
    return groups[0], groups[1]


def _same_start(*sides: list[bytes]) -> list[list[bytes]]:
    """Both sides without a space before the text that one of them has alone, as sentencepiece writes it."""
    first = [next((place for place, piece in enumerate(side) if piece), None) for side in sides]
    if None in first:
        return list(sides)
    spaced = [side[place].startswith(b" ") for side, place in zip(sides, first, strict=True)]
    if spaced[0] != spaced[1]:
        at = spaced.index(True)
        sides[at][first[at]] = sides[at][first[at]][1:]
    return list(sides)


def _same(own: list[bytes], theirs: list[bytes]) -> int:
    """How many bytes two texts have in common from the start on."""
    one, other = (np.frombuffer(b"".join(side), np.uint8) for side in (own, theirs))
    size = min(len(one), len(other))
    return int(np.argmin(np.append(one[:size] == other[:size], False)))


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes that each token of a tokenizer stands for, by id; none for its special ones.

    Args:
      tokenizer: one whose tokens say their bytes, byte-level or of sentencepiece: of ``transformers`` (a fast one) or
        of ``tokenizers``.

    Raises:
      ValueError: another kind of tokenizer, such as one of words, whose tokens leave the spaces out.
    """
    backend = (
        tokenizer if isinstance(tokenizer, tokenizers.Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    )
    described = {} if backend is None else json.loads(backend.to_str())
    kinds = {*_types(described.get("pre_tokenizer")), *_types(described.get("decoder"))}
    if not kinds & {"ByteLevel", "Metaspace", "ByteFallback"}:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} has tokens that don't say which bytes they stand for, so it "
            "can't be aligned with another; take models whose tokenizers are byte-level or of sentencepiece"
        )
    read = _of_byte_level if "ByteLevel" in kinds else _of_sentencepiece
    special, added = set(special_ids(tokenizer)), backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab()
    found = [b""] * (1 + max(vocabulary.values()))
    for piece, place in vocabulary.items():
        if place in added:
            found[place] = b"" if place in special else added[place].content.encode()
        elif place not in special:
            found[place] = read(piece)
    return found


def _types(described: Any) -> list[str]:
    if isinstance(described, Mapping):
        own = [described["type"]] if isinstance(described.get("type"), str) else []
        return own + [one for value in described.values() for one in _types(value)]
    return [one for value in described for one in _types(value)] if isinstance(described, list) else []


def _byte_of() -> dict[str, int]:
    """The byte that a character of a byte-level token stands for: printable ones themselves, then the others."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTE_OF = _byte_of()


def _of_byte_level(piece: str) -> bytes:
    known = all(character in BYTE_OF for character in piece)
    return bytes(BYTE_OF[character] for character in piece) if known else piece.encode()


def _of_sentencepiece(piece: str) -> bytes:
    if BYTE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(BLANK, " ").encode()


def common_tokens(own: Any, theirs: Any) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the tokens that two tokenizers have in common by their bytes, and of their end tokens.

    Args:
      own, theirs: tokenizers, as `token_bytes` takes them.

    Returns:
      ``(own ids, their ids)``, int32 ``[common]`` each. Where a tokenizer has several tokens of the same bytes, the
      first that is no single byte of sentencepiece's, which stand in for what has no other token.

    Raises:
      ValueError: as `token_bytes`.
    """
    one, other = map(_id_of, (own, theirs))
    pairs = [(place, other[piece]) for piece, place in one.items() if piece and piece in other]
    ends = tuple(getattr(x, "eos_token_id", None) for x in (own, theirs))
    if None not in ends and not any(ends[0] == mine or ends[1] == their for mine, their in pairs):
        pairs.append(ends)
    found = np.array(sorted(pairs), np.int32).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _id_of(tokenizer: Any) -> dict[bytes, int]:
    pieces = token_bytes(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    spare = {place for piece, place in backend.get_vocab().items() if BYTE.fullmatch(piece)}
    order = sorted(range(len(pieces)), key=lambda place: (place in spare, place), reverse=True)
    return {pieces[place]: place for place in order}


def aligned_rows(rows: Dataset, theirs: Dataset, own: Any, other: Any) -> Dataset:
    """Rows of tokens with the same texts beside them as another tokenizer writes them, grouped by `aligned`.

    What is learned on both sides, turn by turn, is one text after the other; prompts, which templates write
    differently, stand in no group.

    Args:
      rows: next-token examples of `own`, see `ft_jax.data.next_tokens`.
      theirs: those of `other` for the same texts, in the same order.
      own, other: the tokenizers.

    Returns:
      `rows` with ``token_groups [time]``, a number for every label, and the part ``teacher_tokens`` with
      ``input_ids``, ``labels`` and ``token_groups``.

    Raises:
      ValueError: other numbers of rows; no token of any row has a counterpart; as `token_bytes`.
    """
    if len(rows) != len(theirs):
        raise ValueError(f"there are {len(rows)} rows and {len(theirs)} of the teacher's; give both for the same texts")
    pieces = token_bytes(own), token_bytes(other)
    groups, parts, learned, found = [], [], 0, 0
    for row, their in zip(rows, theirs, strict=True):
        one, two = _of_row(row, their, *pieces)
        learned, found = learned + int((np.asarray(row["labels"]) >= 0).sum()), found + int((one > 0).sum())
        groups.append(one)
        parts.append({"input_ids": their["input_ids"], "labels": their["labels"], GROUPS: two})
    if not found:
        raise ValueError(
            f"none of the {learned} tokens that are learned stands for the same bytes in the teacher's tokenizer; "
            "give both tokenizers the same texts"
        )
    if found < learned:
        warnings.warn(
            f"{learned - found} of {learned} tokens that are learned have no counterpart of the teacher's", stacklevel=2
        )
    return dataclasses.replace(rows, columns={**rows.columns, GROUPS: groups, TAUGHT: parts})


def _of_row(row: Mapping[str, Any], their: Mapping[str, Any], *pieces: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    labels = [np.asarray(one["labels"]) for one in (row, their)]
    found = tuple(np.zeros(len(one), np.int32) for one in labels)
    before = 0
    for spans in zip(*map(_spans, labels), strict=False):
        texts = [[known[label] for label in one[span]] for one, span, known in zip(labels, spans, pieces, strict=True)]
        # Of a row that begins with its text nobody says the first token, which may belong to it.
        firsts = [
            known[int(one["input_ids"][0])] if span.start == 0 else b""
            for one, span, known in zip((row, their), spans, pieces, strict=True)
        ]
        for numbers, groups, span in zip(found, _with_first(texts, firsts), spans, strict=True):
            numbers[span] = np.where(groups > 0, groups + before, 0)
        before = max(before, int(found[0].max(initial=0)))
    return found


def _with_first(texts: list[list[bytes]], firsts: list[bytes]) -> list[np.ndarray]:
    """Groups of two texts, each perhaps with a token before it that has no probability: its group has none either."""
    choices = [
        [first * one, *text] if one else text for text, first in zip(texts, firsts, strict=True) for one in (0, 1)
    ]
    pairs = [(one, two) for one in choices[:2] for two in choices[2:]]
    same = [_same(*_same_start(*map(list, pair))) for pair in pairs]
    best = pairs[int(np.argmax(same))]
    more = [len(side) - len(text) for side, text in zip(best, texts, strict=True)]
    groups = aligned(*best)
    unsaid = {int(found[0]) for found, one in zip(groups, more, strict=True) if one}
    return [np.where(np.isin(found, list(unsaid)), 0, found)[one:] for found, one in zip(groups, more, strict=True)]


def _spans(labels: np.ndarray) -> list[slice]:
    """Runs of labels that are learned."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels >= 0, [0]]).astype(np.int8)))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]
