"""Conversations as a chat template writes them, and which parts of the text the assistant wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from ft_jax.outside import printable

Parts = list[tuple[str, bool]]
"""Pieces of a text in order, each with whether it is learned."""

MARKS = re.compile(r"{%-?\s*generation\b")
"""Where a template says itself what the model writes, as transformers has it."""

STAND_INS = ("Qzw1xjQ", "Xkv2qyX")
"""What stands in for a turn's content to find its place; they begin and end differently."""


def render(tokenizer: Any, messages: Sequence[Mapping], generate: bool = False) -> str:
    """The text that the tokenizer's chat template makes of the messages.

    Args:
      tokenizer: of ``transformers``.
      messages: ``{"role", "content"}`` each.
      generate: whether to end with what opens the assistant's next turn.

    Raises:
      ValueError: the tokenizer has no chat template, or it refuses the messages.
    """
    if isinstance(tokenizer, tokenizers.Tokenizer) or not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template, which messages need; give texts, or set chat_template")
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)
    except Exception as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ValueError(
            f"the tokenizer's chat template refuses turns of {roles} ({' '.join(str(error).split())}); "
            "order the turns as it asks, or give texts"
        ) from error


def written_parts(tokenizer: Any, messages: Sequence[Mapping], where: str) -> Parts:
    """A conversation's text in parts, of which the assistant's turns, with what ends them, are learned.

    The parts together are the template's rendering of the whole. Where every turn is written as it was before later
    ones followed, they are what each adds. Else, as with templates that leave the thinking out of earlier turns, a
    turn's place in the whole is found with a stand-in for its content, between what opens the assistant's turn and what
    ends it.

    Args:
      tokenizer: of ``transformers``, with a template without marks of its own (`MARKS`).
      messages: the conversation.
      where: what an error calls it.

    Raises:
      ValueError: no turn of the assistant; a turn is not in the whole, or is written otherwise there.
    """
    check_messages(messages, where)
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise ValueError(f"the conversation at {where} has no turn of the assistant; add one or drop it")
    parts, written = [], ""
    for turn in turns:
        before = render(tokenizer, messages[:turn], generate=True)
        after = render(tokenizer, messages[: turn + 1])
        if not before.startswith(written) or not after.startswith(before):
            return _found_parts(tokenizer, messages, turns, where)
        parts += [(before[len(written) :], False), (after[len(before) :], True)]
        written = after
    if not render(tokenizer, messages).startswith(written):
        return _found_parts(tokenizer, messages, turns, where)
    return parts


def check_messages(messages: Any, where: str) -> None:
    """Refuses what is no list of ``{"role", "content"}``."""
    for message in messages if isinstance(messages, list | tuple) else [None]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f'{where} holds {printable(message, 60)}; a message is {{"role": ..., "content": ...}}')


def _found_parts(tokenizer: Any, messages: Sequence[Mapping], turns: Sequence[int], where: str) -> Parts:
    whole = render(tokenizer, messages)
    parts, end = [], 0
    for turn in turns:
        opener = _opener(tokenizer, messages[:turn], where)
        head, tail = _around(tokenizer, messages, turn, where)
        _, closing = _around(tokenizer, messages[: turn + 1], turn, where)
        begin = head.rfind(opener) + len(opener)
        content = len(whole) - len(tail)
        fits = (
            head.rfind(opener) >= end
            and whole.startswith(head[:begin])
            and whole.endswith(tail)
            and content >= begin
            and tail.startswith(closing)
        )
        if not fits:
            raise ValueError(
                f"the tokenizer's chat template writes turn {turn} of {where} differently once later ones follow, so "
                "its place in the whole is not known; give the data as prompt and completion texts"
            )
        parts += [(whole[end:begin], False), (whole[begin : content + len(closing)], True)]
        end = content + len(closing)
    return parts


def _opener(tokenizer: Any, messages: Sequence[Mapping], where: str) -> str:
    """What the template opens the assistant's turn with."""
    plain, opened = render(tokenizer, messages), render(tokenizer, messages, generate=True)
    if not opened.startswith(plain) or len(opened) == len(plain):
        raise ValueError(
            f"the tokenizer's chat template opens no turn of the assistant after turn {len(messages) - 1} of {where}; "
            "give the data as prompt and completion texts"
        )
    return opened[len(plain) :]


def _around(tokenizer: Any, messages: Sequence[Mapping], turn: int, where: str) -> tuple[str, str]:
    """The rendering before and after the content of a turn, whatever the content is."""
    one, other = (
        render(tokenizer, [*messages[:turn], {**messages[turn], "content": word}, *messages[turn + 1 :]])
        for word in STAND_INS
    )
    head = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if head is None or not one[head:].startswith(STAND_INS[0]):
        raise ValueError(
            f"the tokenizer's chat template does not write the content of turn {turn} of {where}; drop that turn, or "
            "give the data as prompt and completion texts"
        )
    return one[:head], one[head + len(STAND_INS[0]) :]


def exchange_parts(tokenizer: Any, prompt: Sequence[Mapping], answer: Sequence[Mapping], where: str) -> Parts:
    """A prompt's text, and what the template adds for the answer, which is learned."""
    for messages in (prompt, answer):
        check_messages(messages, where)
    if not answer:
        raise ValueError(f"the answer at {where} has no message; give it one or drop the example")
    before, whole = render(tokenizer, prompt, generate=True), render(tokenizer, [*prompt, *answer])
    if whole.startswith(before):
        return [(before, False), (whole[len(before) :], True)]
    first = len(prompt)
    opener = _opener(tokenizer, prompt, where)
    head, _ = _around(tokenizer, [*prompt, *answer], first, where)
    begin = head.rfind(opener) + len(opener)
    if head.rfind(opener) < 0 or not whole.startswith(head[:begin]):
        raise ValueError(
            f"the tokenizer's chat template writes the prompt at {where} differently once the answer follows; "
            "give the data as prompt and completion texts"
        )
    return [(whole[:begin], False), (whole[begin:], True)]


def marked(tokenizer: Any) -> bool:
    """Whether the tokenizer's template marks what the model writes."""
    template = None if isinstance(tokenizer, tokenizers.Tokenizer) else tokenizer.chat_template
    return isinstance(template, str) and MARKS.search(template) is not None


def marked_tokens(tokenizer: Any, messages: Sequence[Mapping], where: str) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation and which of them are in the template's marks.

    Raises:
      ValueError: none is.
    """
    check_messages(messages, where)
    found = tokenizer.apply_chat_template(
        list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    learned = [bool(one) for one in found["assistant_masks"]]
    if not any(learned):
        raise ValueError(f"the conversation at {where} has no turn of the assistant; add one or drop it")
    return list(found["input_ids"]), learned
