"""Tokens of two tokenizers, grouped by the bytes that they stand for."""

import numpy as np
import pytest
from data.byte_tokenizers import byte_level, sentencepiece
from data.tiny_tokenizers import for_decoders, for_encoders

from ft_jax import data
from ft_jax.data.alignment import GROUPS, TAUGHT

TEXTS = ["hello you", "a \U0001f600 and \u00e9", "you  hello\n\nyou"]
CHAT = (
    "{{% for message in messages %}}{opens}{{{{ message['role'] }}}}:{{{{ message['content'] }}}}<end>{{% endfor %}}"
    "{{% if add_generation_prompt %}}{opens}assistant:{{% endif %}}"
)


def slow(own, theirs):
    """Groups by walking both texts byte by byte: a group ends where both have an end."""
    edges = []
    for side in (own, theirs):
        place, found = 0, {}
        for at, piece in enumerate(side):
            place += len(piece)
            if piece:
                found[place] = at
        edges.append(found)
    groups = [[0] * len(own), [0] * len(theirs)]
    number, starts = 0, [0, 0]
    for byte in range(1, 1 + min(len(b"".join(own)), len(b"".join(theirs)))):
        if b"".join(own)[:byte] != b"".join(theirs)[:byte]:
            break
        if byte in edges[0] and byte in edges[1]:
            number += 1
            for side, (found, pieces) in enumerate(zip(edges, (own, theirs), strict=True)):
                for at in range(starts[side], found[byte] + 1):
                    groups[side][at] = number if pieces[at] else 0
                starts[side] = found[byte] + 1
    return groups


def test_groups_are_those_of_a_walk_byte_by_byte():
    draw = np.random.default_rng(0)
    for _ in range(200):
        text = bytes(draw.integers(97, 100, draw.integers(1, 12)))
        sides = []
        for _ in range(2):
            cuts = sorted(draw.integers(0, len(text) + 1, draw.integers(0, 6)).tolist())
            sides.append([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
        if draw.random() < 0.3:
            sides[1][-1] += b"z"
        found = data.aligned(*sides)
        groups = slow(*sides)
        for one, other in zip(found, groups, strict=True):
            # What follows the text on both sides may be a group of its own, which the walk has not.
            np.testing.assert_array_equal(np.where(one > max(map(max, groups)), 0, one), other)


def test_an_opening_token_on_one_side_alone_leaves_every_group_where_it_was():
    own, theirs = [b"", b"hello", b" you"], [b"hel", b"lo", b" you"]
    found = data.aligned(own, theirs)
    assert [one.tolist() for one in found] == [[0, 1, 2], [1, 1, 2]]
    assert [one.tolist() for one in data.aligned(own[1:], theirs)] == [[1, 2], [1, 1, 2]]


def test_a_character_of_several_bytes_is_split_where_both_split_it():
    smile = "\U0001f600".encode()
    halves, thirds = [smile[:2], smile[2:]], [smile[:1], smile[1:2], smile[2:3], smile[3:]]
    assert [one.tolist() for one in data.aligned(halves, thirds)] == [[1, 2], [1, 1, 2, 2]]
    assert [one.tolist() for one in data.aligned([smile[:3], smile[3:]], halves)] == [[1, 1], [1, 1]]


def test_end_tokens_are_a_group_and_a_text_that_was_cut_has_none():
    assert [one.tolist() for one in data.aligned([b"a", b""], [b"a", b""])] == [[1, 2], [1, 2]]
    assert [one.tolist() for one in data.aligned([b"a", b""], [b"a", b"b"])] == [[1, 0], [1, 0]]
    assert [one.tolist() for one in data.aligned([b"ab", b"c", b""], [b"ab"])] == [[1, 0, 0], [1]]


def test_a_space_that_one_side_puts_before_the_text_is_no_byte_of_it():
    assert [one.tolist() for one in data.aligned([b" he", b"llo"], [b"hello"])] == [[1, 1], [1]]
    assert [one.tolist() for one in data.aligned([b"hello"], [b" ", b"hello"])] == [[1], [0, 1]]
    assert [one.tolist() for one in data.aligned([b"x"], [b"y"])] == [[0], [0]]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "tokenizer",
    [byte_level(), byte_level(["hello", " you", b"\x9f\x98"]), sentencepiece([" you".replace(" ", "\u2581"), "el"])],
    ids=["bytes", "merges", "sentencepiece"],
)
def test_the_bytes_of_a_texts_tokens_are_the_text(tokenizer, text):
    pieces = data.token_bytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=True)["input_ids"]
    assert b"".join(pieces[place] for place in ids).decode().removeprefix(" ") == text


def test_tokens_of_the_same_bytes_are_common_whatever_they_are_called():
    own, theirs = byte_level(["hello", " you"]), sentencepiece(["\u2581you", "hello"])
    pairs = dict(zip(*(ids.tolist() for ids in data.common_tokens(own, theirs)), strict=True))
    vocabularies = own.get_vocab(), theirs.get_vocab()
    for ours, other in (("\u0120you", "\u2581you"), ("hello", "hello"), ("\u0120", "\u2581"), ("<end>", "</s>")):
        assert pairs[vocabularies[0][ours]] == vocabularies[1][other]
    assert len(pairs) == len(set(pairs.values())) and vocabularies[0]["<pad>"] not in pairs


def texts_of(tokenizer, **columns):
    return data.next_tokens(data.Dataset(columns), tokenizer, length=100)


def test_rows_stand_beside_the_teachers_with_every_learned_token_in_a_group():
    own, theirs = byte_level(["hello", " you"], opening="<begin>"), byte_level(["hel", "lo y", b"\xf0\x9f"])
    texts = {"prompt": ["is it", "say", "now"], "completion": TEXTS}
    rows, beside = (texts_of(one, **texts) for one in (own, theirs))
    made = data.aligned_rows(rows, beside, own, theirs)
    pieces = data.token_bytes(own), data.token_bytes(theirs)
    for row, text in zip(made, TEXTS, strict=True):
        sides = ((row["labels"], row[GROUPS]), (row[TAUGHT]["labels"], row[TAUGHT][GROUPS]))
        told = [
            {g: b"".join(found[x] for x in labels[groups == g]) for g in groups[groups > 0]}
            for (labels, groups), found in zip(sides, pieces, strict=True)
        ]
        assert told[0] == told[1] and b"".join(told[0].values()).decode() == text
        for labels, groups in sides:
            np.testing.assert_array_equal(groups > 0, np.asarray(labels) >= 0)


def test_turns_of_a_conversation_are_aligned_one_by_one_whatever_the_templates_write():
    own = byte_level(["hello"], chat=CHAT.format(opens="#"))
    theirs = byte_level(["hel", "you"], chat=CHAT.format(opens="[turn]"))
    talk = [("user", "hi"), ("assistant", "hello you"), ("user", "more"), ("assistant", "you")]
    messages = [[{"role": role, "content": content} for role, content in talk]]
    rows, beside = (texts_of(one, messages=messages) for one in (own, theirs))
    (row,) = data.aligned_rows(rows, beside, own, theirs)
    pieces = data.token_bytes(own)
    said = [pieces[label] for label, group in zip(row["labels"], row[GROUPS], strict=True) if group]
    assert b"".join(said) == b"hello youyou" and said.count(b"") == 2
    assert row[GROUPS].max() == row[TAUGHT][GROUPS].max() == len(set(row[GROUPS][row[GROUPS] > 0]))


def test_what_cannot_be_aligned_is_refused_or_told():
    own, theirs = byte_level(opening="<begin>"), byte_level(["hello"], opening="<begin>")
    with pytest.raises(ValueError, match="don't say which bytes they stand for"):
        data.token_bytes(for_decoders())
    with pytest.raises(ValueError, match="don't say which bytes"):
        data.token_bytes(for_encoders())
    rows = texts_of(own, text=["hello"])
    with pytest.raises(ValueError, match="1 rows and 2 of the teacher's"):
        data.aligned_rows(rows, texts_of(theirs, text=["hello", "you"]), own, theirs)
    with pytest.raises(ValueError, match="none of the 6 tokens"):
        data.aligned_rows(rows, texts_of(theirs, text=["no"]), own, theirs)
    with pytest.warns(UserWarning, match="4 of 6 tokens that are learned have no counterpart"):
        data.aligned_rows(rows, texts_of(theirs, text=["hexxo"]), own, theirs)
    (row,) = data.aligned_rows(rows, texts_of(theirs, text=["hello"]), own, theirs)
    assert row[GROUPS].tolist() == [1, 1, 1, 1, 1, 2, 0] and row[TAUGHT][GROUPS].tolist() == [1, 2, 0]


def test_a_first_token_that_one_side_never_says_is_in_no_group_of_either():
    """Without an opening token the text's first token has nothing before it that could say it."""
    own, theirs = byte_level(["hel"], opening="<begin>"), byte_level(["hello"])
    text = {"text": ["hello you"]}
    (row,) = data.aligned_rows(texts_of(own, **text), texts_of(theirs, **text), own, theirs)
    # <begin> says "hel"; "hello" is said by nothing, so "hel", "l" and "o" have no counterpart.
    assert row[GROUPS].tolist() == [0, 0, 0, 2, 3, 4, 5, 6, 0] and row[TAUGHT][GROUPS].tolist() == [2, 3, 4, 5, 6, 0]
    (row,) = data.aligned_rows(texts_of(theirs, **text), texts_of(theirs, **text), theirs, theirs)
    assert row[GROUPS].tolist() == row[TAUGHT][GROUPS].tolist() == [2, 3, 4, 5, 6, 0]
