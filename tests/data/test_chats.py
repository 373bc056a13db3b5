"""Each special token once, and the loss on what the assistant wrote, whatever the template does with earlier turns."""

import pytest
import tokenizers
from data.tiny_tokenizers import WORDS, for_decoders
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ft_jax.data import Dataset, next_tokens, tokenize
from ft_jax.data.chats import render, written_parts

THINKING = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{%- set content = content.split('</think>')[-1].lstrip() %}{%- endif %}"
    "{{- '<|' + m.role + '|>' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<think>' + (thought or '') + '</think> ' }}{%- endif %}"
    "{{- content + '<|end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""Like Qwen 3's: an answer after the last question has a block of thoughts, earlier ones lose theirs."""

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}<|{{ m.role }}|>{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def with_template(template):
    made = for_decoders()
    made.chat_template = template
    return made


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


DIALOGUE = turns(
    ("user", "hi"), ("assistant", "<think>you</think> hi you"), ("user", "was it"), ("assistant", "very good")
)


def test_a_template_that_drops_earlier_thoughts_is_learned_turn_by_turn():
    tokenizer = with_template(THINKING)
    parts = written_parts(tokenizer, DIALOGUE, "example 0")
    assert "".join(text for text, _ in parts) == render(tokenizer, DIALOGUE)
    assert [text for text, learned in parts if learned] == ["hi you<|end|>", "<think></think> very good<|end|>"]
    (first,) = (text for text, learned in written_parts(tokenizer, DIALOGUE[:2], "example 0") if learned)
    assert first == "<think>you</think> hi you<|end|>"


@pytest.mark.parametrize("template", [THINKING, None])
def test_the_parts_are_the_whole_rendering(template):
    tokenizer = for_decoders() if template is None else with_template(template)
    for last in (2, 4):
        parts = written_parts(tokenizer, DIALOGUE[:last], "example 0")
        assert "".join(text for text, _ in parts) == render(tokenizer, DIALOGUE[:last])


def test_a_template_s_own_marks_say_what_is_learned():
    messages = turns(("user", "hi"), ("assistant", "hi you"), ("user", "was"), ("assistant", "good"))
    (plain,) = next_tokens(Dataset({"messages": [messages]}), for_decoders(), length=32)
    (marked,) = next_tokens(Dataset({"messages": [messages]}), with_template(MARKED), length=32)
    for field, values in plain.items():
        assert values.tolist() == marked[field].tolist()


def test_a_turn_that_is_not_in_the_whole_is_refused():
    with pytest.raises(ValueError, match="does not write the content of turn 1 of example 0"):
        next_tokens(Dataset({"messages": [DIALOGUE]}), with_template(FORGETFUL), length=64)


@pytest.mark.parametrize("messages", [["hi"], [{"role": "user"}], "hi", [{"content": "hi"}]])
def test_what_is_no_message_is_refused_by_its_example(messages):
    with pytest.raises(ValueError, match="example 0 holds"):
        next_tokens(Dataset({"messages": [messages]}), for_decoders(), length=16)


def bracketed(front, behind):
    """A decoder's tokenizer that puts those tokens around a text."""
    special = ["<pad>", "<s>", "</s>"]
    ids = {token: place for place, token in enumerate([*special, *WORDS])}
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single = " ".join(["<s>"] * front + ["$A"] + ["</s>"] * behind)
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    made.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.mark.parametrize("front", [0, 1])
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("form", ["{}", "<s> {}", "{} </s>", "<s> {} </s>"])
def test_each_special_token_is_there_once_wherever_it_comes_from(front, behind, form):
    tokenizer = bracketed(front, behind)
    words = tokenizer("good film", add_special_tokens=False)["input_ids"]
    start = [1] * (front or form.startswith("<s>"))
    (plain,) = next_tokens(Dataset({"text": [form.format("good film")]}), tokenizer, length=16)
    assert plain["input_ids"].tolist() == [*start, *words, 2]
    columns = {"prompt": [form.partition(" {")[0] + " good" if form[0] == "<" else "good"]}
    columns["completion"] = ["film </s>" if form.endswith("</s>") else "film"]
    (pair,) = next_tokens(Dataset(columns), tokenizer, length=16)
    assert pair["input_ids"].tolist() == [*start, *words, 2]
    (text,) = tokenize(Dataset({"text": [form.format("good film")]}), tokenizer, length=16)
    ends = [2] * (behind or form.endswith("</s>"))
    assert text["input_ids"].tolist() == [*start, *words, *ends]
