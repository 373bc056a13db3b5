"""Tokenizers that are trained here in no time: one for encoders, one for decoders."""

import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = (
    *("the", "a", "film", "was", "is", "good", "bad", "not", "very", "and", "really", "awful", "great", "plot"),
    *("acting", "user", "assistant", "hi", "you"),
)
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def for_encoders() -> tokenizers.Tokenizer:
    """Words, with [CLS] in front and [SEP] behind; set to truncate and pad, as published ones often are."""
    ids = {token: place for place, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *WORDS])}
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"])
    made.enable_truncation(4)
    made.enable_padding(length=16)
    return made


def for_decoders() -> PreTrainedTokenizerFast:
    """Words of a chat model: nothing in front, <|end|> behind, and a chat template."""
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|unk|>"]
    ids = {token: place for place, token in enumerate([*special, *WORDS])}
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<|unk|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>", unk_token="<|unk|>", chat_template=CHAT
    )
