"""Tokenizers whose tokens say their bytes, made here: byte-level ones and one of sentencepiece."""

import dataclasses
from collections.abc import Sequence

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import ft_jax.models
from ft_jax.data.alignment import BLANK, BYTE_OF

CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


def written(text: str | bytes) -> str:
    """A text's bytes as byte-level tokens show them."""
    return "".join(CHARACTER_OF[byte] for byte in (text.encode() if isinstance(text, str) else text))


def byte_level(
    words: Sequence[str | bytes] = (), opening: str | None = None, space: bool = False, chat: str | None = None
) -> PreTrainedTokenizerFast:
    """All bytes, and `words` out of them by their shortest chain of merges; ``<end>`` ends.

    Args:
      words: further tokens.
      opening: a token before every text.
      space: whether a space is put before a text.
      chat: a template.
    """
    special = ["<end>", "<pad>", *([] if opening is None else [opening])]
    pieces = [*special, *(CHARACTER_OF[byte] for byte in range(256))]
    merges = []
    for word in map(written, words):
        for end in range(2, len(word) + 1):
            merge = (word[: end - 1], word[end - 1])
            if merge not in merges:
                merges.append(merge)
                pieces.append(word[:end])
    ids = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    made = tokenizers.Tokenizer(models.BPE(ids, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    if opening is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A", special_tokens=[(opening, special.index(opening))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", pad_token="<pad>", bos_token=opening, chat_template=chat
    )


def sentencepiece(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Words after a blank, letters, and bytes for the rest, as Llama 2 has them."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), BLANK, *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            merge = (word[: end - 1], word[end - 1])
            if merge not in merges:
                merges.append(merge)
                pieces.append(word[:end])
    ids = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    made = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def saved(folder, key, tokenizer, vocabulary):
    """The folder of a tiny decoder that reads by a tokenizer."""
    model = ft_jax.models.tiny_decoder(jax.random.key(key), vocabulary=vocabulary, layers=1)
    model = dataclasses.replace(model, tokenizer=tokenizer)
    ft_jax.models.save(model, model.params, folder)
    return str(folder)
