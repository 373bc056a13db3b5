"""Decoders learn the answers and not the prompts, each token from those before it."""

import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders, for_encoders

from ft_jax.data import Dataset, next_tokens, preferences
from ft_jax.data.chats import render

TOKENIZER = for_decoders()
END = TOKENIZER.eos_token_id


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def learned(example):
    """The tokens that carry weight, read off the labels."""
    return [int(label) for label, weight in zip(example["labels"], example["weights"], strict=True) if weight]


def check_shift(example):
    for place in range(len(example["input_ids"]) - 1):
        if example["weights"][place]:
            assert example["labels"][place] == example["input_ids"][place + 1]
        else:
            assert example["labels"][place] == -1
    assert example["weights"][-1] == 0 and example["labels"][-1] == -1


def test_the_completion_and_the_end_are_learned():
    dataset = Dataset({"prompt": ["hi", "was the film good"], "completion": ["hi you", "not really"]})
    for example, answer in zip(next_tokens(dataset, TOKENIZER, length=16), ["hi you", "not really"], strict=True):
        check_shift(example)
        assert learned(example) == [*ids(answer), END]


def test_prompts_are_learned_when_asked_for():
    dataset = Dataset({"prompt": ["was the film good"], "completion": ["not really"]})
    (example,) = next_tokens(dataset, TOKENIZER, length=16, learn_prompt=True)
    assert learned(example) == [*ids("was the film good"), *ids("not really"), END][1:]


def test_plain_text_is_learned_whole():
    (example,) = next_tokens(Dataset({"text": ["the film was good"]}), TOKENIZER, length=16)
    check_shift(example)
    assert example["input_ids"].tolist() == [*ids("the film was good"), END]
    assert learned(example) == [*ids("film was good"), END]


def test_all_turns_of_the_assistant_are_learned_and_no_other():
    turns = [("system", "you"), ("user", "hi"), ("assistant", "hi you"), ("user", "was it"), ("assistant", "very good")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (example,) = next_tokens(Dataset({"messages": [messages]}), TOKENIZER, length=32)
    check_shift(example)
    assert example["input_ids"].tolist() == ids(render(TOKENIZER, messages))
    assert learned(example) == [*ids("hi you"), END, *ids("very good"), END]


def test_messages_as_prompt_and_completion_equal_the_conversation():
    prompt, answer = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "hi you"}]
    (apart,) = next_tokens(Dataset({"prompt": [prompt], "completion": [answer]}), TOKENIZER, length=16)
    (whole,) = next_tokens(Dataset({"messages": [prompt + answer]}), TOKENIZER, length=16)
    for field in ("input_ids", "labels", "weights"):
        np.testing.assert_array_equal(apart[field], whole[field])


def test_long_examples_are_refused_cut_or_dropped():
    dataset = Dataset({"prompt": ["hi", "hi"], "completion": ["you", "the film was very very good"]})
    with pytest.raises(ValueError, match="1 of 2 examples are longer than 5 tokens, the first is example 1 with 8"):
        next_tokens(dataset, TOKENIZER, length=5)
    with pytest.warns(UserWarning, match="1 of 2 examples were cut to 5"):
        cut = next_tokens(dataset, TOKENIZER, length=5, too_long="truncate")
    assert [len(example["input_ids"]) for example in cut] == [3, 5]
    check_shift(cut[1])
    with pytest.warns(UserWarning, match="1 of 2 examples were dropped"):
        assert len(next_tokens(dataset, TOKENIZER, length=5, too_long="drop")) == 1


def test_a_prompt_that_leaves_nothing_to_learn_is_refused():
    dataset = Dataset({"prompt": ["the film was very very good"], "completion": ["you"]})
    fault = pytest.raises(ValueError, match="example 0 has nothing left to learn in 4 tokens")
    with pytest.warns(UserWarning, match="cut"), fault:
        next_tokens(dataset, TOKENIZER, length=4, too_long="truncate")


@pytest.mark.parametrize(
    ("columns", "tokenizer", "error", "said"),
    [
        ({"sentence": ["hi"]}, TOKENIZER, KeyError, "needs 'text', or 'prompt'"),
        ({"messages": [[{"role": "user", "content": "hi"}]]}, TOKENIZER, ValueError, "no turn of the assistant"),
        ({"messages": [[{"role": "assistant", "content": "hi"}]]}, for_encoders(), ValueError, "no chat template"),
        (
            {"prompt": ["hi"], "completion": [[{"role": "assistant", "content": "hi"}]]},
            TOKENIZER,
            ValueError,
            "both texts",
        ),
    ],
)
def test_bad_input_is_named(columns, tokenizer, error, said):
    with pytest.raises(error, match=said):
        next_tokens(Dataset(columns), tokenizer, length=16)


def test_preferences_learn_both_answers_after_one_prompt():
    dataset = Dataset({"prompt": ["was it good"], "chosen": ["very good"], "rejected": ["not really bad"]})
    (pair,) = preferences(dataset, TOKENIZER, length=16)
    for part, answer in (("chosen", "very good"), ("rejected", "not really bad")):
        check_shift(pair[part])
        assert pair[part]["input_ids"].tolist() == [*ids("was it good"), *ids(answer), END]
        assert learned(pair[part]) == [*ids(answer), END]


def test_a_pair_is_dropped_when_either_answer_is_too_long():
    columns = {"prompt": ["hi", "hi"], "chosen": ["you", "good"], "rejected": ["the film was very very good", "bad"]}
    with pytest.warns(UserWarning, match="1 of 2"):
        kept = preferences(Dataset(columns), TOKENIZER, length=5, too_long="drop")
    assert len(kept) == 1 and kept[0]["chosen"]["input_ids"].tolist() == [*ids("hi good"), END]
    with pytest.raises(KeyError, match="no column 'rejected'"):
        preferences(Dataset(columns).select("prompt", "chosen"), TOKENIZER, length=5)
