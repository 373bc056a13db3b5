"""Tokenizers out of a checkpoint folder or a GGUF file, as transformers' own fast tokenizers (no torch)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_jax.outside import printable, refusing

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRETOKENIZERS = {
    "default": (GPT2, False),
    "gpt-2": (GPT2, False),
    "smollm": (GPT2, True),
    "llama-bpe": (LLAMA3, False),
    "llama3": (LLAMA3, False),
    "smaug-bpe": (LLAMA3, False),
    "qwen2": (QWEN2, False),
    "deepseek-r1-qwen": (QWEN2, False),
    "tekken": (TEKKEN, False),
}
"""llama.cpp's name of a pre-tokenizer to its expression, and whether digits are split off one by one before it."""

GEMMAS = ("gemma", "gemma2", "gemma3")
"""Architectures whose merges are in the order of the tokens, and whose text gets no space before it."""

BLANK = "\u2581"
"""What sentencepiece writes for a space."""

CONTROL, USER_DEFINED = 3, 4


def _transformers():
    # The library advises at import that torch is missing; nothing here uses torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def tokenizer_of_folder(folder: Path):
    """The tokenizer of a checkpoint folder, or None where it has no tokenizer file.

    Code in the folder is never run: a tokenizer that is one is refused.

    Raises:
      ValueError: its files are damaged, or its class is code beside them.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")):
        return None
    with refusing(f"{folder} has a tokenizer that can't be read", "get it again, or load with tokenizer=False"):
        return _transformers().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_fast=True
        )


def tokenizer_of_gguf(metadata: Mapping[str, Any], path: Path):
    """The tokenizer in a GGUF file's metadata, with its special tokens and chat template.

    Byte-level BPE (``gpt2``), or sentencepiece's BPE with bytes for what is no token (``llama``), whose merges the
    file lacks and which follow from the tokens and their scores.

    Raises:
      ValueError: where the tokenizer is of another kind.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and split not in PRETOKENIZERS):
        raise ValueError(
            f"{path} has a tokenizer of model {printable(kind)} and pre-tokenizer {printable(split)}; known are model "
            f"'llama', and 'gpt2' with {', '.join(PRETOKENIZERS)}; load with tokenizer=False and bring your own"
        )
    from tokenizers import AddedToken, processors

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    built = _byte_level(metadata, split) if kind == "gpt2" else _sentencepiece(metadata)
    known = built.get_vocab()
    built.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=False)
            if kind in (CONTROL, USER_DEFINED) and token in known
        ]
    )

    def named(name):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else tokens[number]

    start = named("bos")
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and start is not None:
        number = metadata["tokenizer.ggml.bos_token_id"]
        built.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, number)]
        )
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=start,
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _byte_level(metadata, split):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE({token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}, merges))
    expression, digits = PRETOKENIZERS[split]
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.Split(Regex(expression), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    built.pre_tokenizer = pre_tokenizers.Sequence(steps)
    built.decoder = decoders.ByteLevel()
    return built


def _sentencepiece(metadata):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    gemma = metadata.get("general.architecture") in GEMMAS
    if gemma:
        # Runs of spaces are stored as such, and looked up as runs of blanks.
        vocabulary = {BLANK * len(t) if " " in t and not t.strip() else t: i for i, t in enumerate(tokens)}
        ranks = {token: -i for token, i in vocabulary.items()}
    else:
        vocabulary = {token: i for i, token in enumerate(tokens)}
        ranks = dict(zip(tokens, metadata["tokenizer.ggml.scores"], strict=True))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    built = Tokenizer(
        models.BPE(
            vocabulary, merges_of(vocabulary, ranks), fuse_unk=True, byte_fallback=True, unk_token=tokens[unknown]
        )
    )
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if gemma:
        built.normalizer = normalizers.Replace(" ", BLANK)
        built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        before = metadata.get("tokenizer.ggml.add_space_prefix", True)
        scheme = "first" if before else "never"
        built.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=False)
        if before:
            steps.append(decoders.Strip(" ", 1, 0))
    built.decoder = decoders.Sequence(steps)
    return built


def merges_of(vocabulary: Mapping[str, int], ranks: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges that a vocabulary implies: every cut of a token into two tokens, those of the highest rank first.

    Example:
      >>> merges_of({"a": 0, "b": 1, "ab": 2, "abb": 3}, {"a": 0, "b": 0, "ab": -1, "abb": -2})
      [('a', 'b'), ('ab', 'b')]
    """
    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocabulary]
        cuts = [(first, second) for first, second in cuts if second in vocabulary]
        cuts.sort(key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
        merges += [(rank, len(first), len(second), first, second) for first, second in cuts]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [(first, second) for *_, first, second in merges]
