"""Texts become the tokens that the tokenizer gives, of both libraries, and long ones are dealt with openly."""

import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders, for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax.data import Dataset, encode, special_ids, tokenize

TEXTS = ["good film", "the film was not very good", "a really awful plot and bad acting"]


def both_kinds():
    raw = for_encoders()
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return [raw, PreTrainedTokenizerFast(tokenizer_object=for_encoders(), unk_token="[UNK]", **names)]


def by_hand(text):
    words = for_encoders().get_vocab()
    return [words["[CLS]"], *(words[word] for word in text.split()), words["[SEP]"]]


@pytest.mark.parametrize("tokenizer", both_kinds(), ids=["tokenizers", "transformers"])
def test_tokens_are_whole_whatever_the_tokenizer_is_set_to(tokenizer):
    found = tokenize(Dataset({"text": TEXTS, "labels": np.arange(3)}), tokenizer, length=9)
    assert [ids.tolist() for ids in found.columns["input_ids"]] == [by_hand(text) for text in TEXTS]
    assert found.columns["labels"].tolist() == [0, 1, 2] and "text" not in found.columns
    assert special_ids(tokenizer) == (0, 1, 2, 3, 4)


def test_the_tokenizers_own_settings_stay():
    tokenizer = for_encoders()
    before = tokenizer.to_str()
    encode(tokenizer, TEXTS)
    assert tokenizer.to_str() == before


def test_without_special_tokens_the_text_alone_is_left():
    assert encode(for_encoders(), TEXTS[:1], special=False)[0].ids.tolist() == by_hand(TEXTS[0])[1:-1]


def test_too_long_texts_are_refused_with_their_place():
    with pytest.raises(ValueError, match=r"2 of 3 texts are longer than 4 tokens, the first is example 1 with 8"):
        tokenize(Dataset({"text": TEXTS}), for_encoders(), length=4)


def test_truncation_keeps_the_closing_token_and_counts():
    with pytest.warns(UserWarning, match="2 of 3 texts were cut to 5 tokens"):
        found = tokenize(Dataset({"text": TEXTS}), for_encoders(), length=5, too_long="truncate")
    for ids, text in zip(found.columns["input_ids"], TEXTS, strict=True):
        whole = by_hand(text)
        assert ids.tolist() == (whole if len(whole) <= 5 else [*whole[:4], whole[-1]])


@pytest.mark.parametrize(
    ("dataset", "options", "error", "said"),
    [
        (Dataset({"sentence": TEXTS}), {}, KeyError, "no column 'text'; it has sentence"),
        (Dataset({"text": []}), {}, ValueError, "no examples"),
        (Dataset({"text": ["a", None]}), {}, ValueError, "holds None at example 1"),
        (Dataset({"text": TEXTS}), {"too_long": "cut"}, ValueError, "too_long='cut'"),
    ],
)
def test_bad_input_is_named(dataset, options, error, said):
    with pytest.raises(error, match=said):
        tokenize(dataset, for_encoders(), length=16, **options)


def test_an_empty_text_of_a_decoder_has_no_tokens():
    assert [one.ids.tolist() for one in encode(for_decoders(), ["", "good film"])] == [[], [11, 8]]
