"""Tokenizers out of a checkpoint folder or a GGUF file, as transformers' own fast tokenizers (no torch)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

PRETOKENIZERS = {"gpt-2": (GPT2, False), "smollm": (GPT2, True), "llama-bpe": (LLAMA3, False), "qwen2": (QWEN2, False)}
"""llama.cpp's name of a pre-tokenizer to its expression, and whether digits are split off one by one before it."""

CONTROL, USER_DEFINED = 3, 4


def _transformers():
    # The library advises at import that torch is missing; nothing here uses torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def tokenizer_of_folder(folder: Path):
    """The tokenizer of a checkpoint folder, or None where it has no tokenizer file."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        return None
    return _transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def tokenizer_of_gguf(metadata: Mapping[str, Any], path: Path):
    """The byte-level BPE tokenizer in a GGUF file's metadata, with its special tokens and chat template.

    Raises:
      ValueError: where the tokenizer is of another kind.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in PRETOKENIZERS:
        raise ValueError(
            f"{path} has a tokenizer of model {kind!r} and pre-tokenizer {split!r}; known are model 'gpt2' with "
            f"{', '.join(PRETOKENIZERS)}; load with tokenizer=False and bring your own"
        )
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    expression, digits = PRETOKENIZERS[split]
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.Split(Regex(expression), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    built.pre_tokenizer = pre_tokenizers.Sequence(steps)
    built.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=False)
        if kind in (CONTROL, USER_DEFINED)
    ]
    built.add_tokens(added)

    def named(name):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else tokens[number]

    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=named("bos"),
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )
