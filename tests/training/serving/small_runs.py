"""Tiny models with tokenizers in folders, files of a few lines, and runs over them that take seconds."""

import dataclasses
import json
from pathlib import Path

import jax
from data.tiny_tokenizers import for_decoders, for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax import models, transfer
from ft_jax.core.adapters import map_operators_with_path
from ft_jax.core.params import digest
from ft_jax.models import DecoderConfig, EncoderConfig
from ft_jax.training import Budget, Experiment, Feed, OptimizerSpec, Task, Use, fit
from ft_jax.training.specs import Pretrained, Texts

GOOD = ("a good film", "the plot was great", "really good acting", "great film", "the acting is great")
BAD = ("a bad film", "the plot was awful", "really bad acting", "awful film", "the acting is awful")


def encoder_folder(folder: Path, layers: int = 2) -> Path:
    """A BERT with a pooler."""
    tokenizer = for_encoders()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    config = EncoderConfig(
        vocabulary=tokenizer.get_vocab_size(), width=16, layers=layers, heads=2, mlp_width=32, positions=32,
        pooler=True, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = models.build(config, jax.random.key(0))
    return models.save(dataclasses.replace(model, tokenizer=wrapped), model.params, folder)


def decoder_folder(folder: Path, layers: int = 2) -> Path:
    """A chat model."""
    tokenizer = for_decoders()
    config = DecoderConfig(
        vocabulary=len(tokenizer), width=16, layers=layers, heads=2, key_value_heads=1, head_width=8, mlp_width=32,
        positions=64, tied=False,
    )  # fmt: skip
    model = models.build(config, jax.random.key(0))
    model = dataclasses.replace(model, tokenizer=tokenizer, stop_tokens=(tokenizer.eos_token_id,))
    return models.save(model, model.params, folder)


def texts(file: Path, repeats: int = 8) -> Path:
    """A csv of a few sentences, again and again with another word before them, so that both splits have some."""
    words = ("the", "a", "very", "not", "really", "and", "is", "was")
    rows = [
        f"{words[i]} {text},{name}"
        for i in range(repeats)
        for name, group in (("positive", GOOD), ("negative", BAD))
        for text in group
    ]
    file.write_text("text,label\n" + "\n".join(rows) + "\n")
    return file


def classifier(model: Path, file: Path, name: str, pooling: str = "mean", method=(), **changes) -> Experiment:
    """A classifier of the csv."""
    return Experiment(
        name=name,
        model=Pretrained(str(model), classes=2, pooling=pooling),
        data=Texts((str(file),), length=16),
        method=method or (Use("transfer.lora", rank=2, also=("*/head/*",)),),
        optimizer=OptimizerSpec(learning_rate=3e-2),
        budget=Budget(steps=12, batch_size=8),
        **changes,
    )


def run(experiment: Experiment, out: Path):
    """Its result."""
    return fit(dataclasses.replace(experiment, out=str(out)), quiet=True)


@dataclasses.dataclass(frozen=True)
class Conversations:
    """Chats of a file, all of them for training and for evaluation."""

    address: str
    length: int = 32

    def build(self, model, feed: Feed):
        from ft_jax import data

        tokens = data.next_tokens(data.load(self.address), model.tokenizer, length=self.length)
        shape = {"length": self.length, "padding": model.pad_token}
        source = data.batches(tokens, feed.batch_size, seed=feed.seed, **shape)
        return Task("chats", source, {"chats": data.evaluation_batches(tokens, 4, **shape)}, len(tokens))


def chats(file: Path) -> Path:
    """A jsonl of conversations."""
    turns = [("hi", "you"), ("is the film good", "the film is great"), ("the plot", "awful plot"), ("hi you", "hi")]
    rows = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": other}]}
        for one, other in turns
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chat(model: Path, file: Path, name: str, method=()) -> Experiment:
    """A chat model tuned on the jsonl."""
    return Experiment(
        name=name,
        model=Pretrained(str(model)),
        data=Conversations(str(file)),
        method=method or (Use("transfer.lora", rank=2),),
        optimizer=OptimizerSpec(learning_rate=3e-2),
        budget=Budget(steps=30, batch_size=4),
    )


@dataclasses.dataclass(frozen=True)
class Words:
    """Random words of three classes, for models without a tokenizer."""

    def build(self, model, feed: Feed):
        import numpy as np

        from ft_jax import data

        draw = np.random.default_rng(0)
        examples = data.Dataset({"input_ids": list(draw.integers(3, 40, (8, 5))), "labels": draw.integers(0, 3, 8)})
        return Task("words", data.batches(examples, feed.batch_size, seed=feed.seed), {}, 8)


def adapters(model):
    """Two adapters of a decoder, of random numbers."""

    def random(path, weight):
        key = jax.random.fold_in(jax.random.key(weight.b.size), digest(path) % 1000)
        return dataclasses.replace(weight, b=0.3 * jax.random.normal(key, weight.b.shape))

    made = {}
    for name, rank in (("one", 2), ("two", 3)):
        changed = transfer.lora(rank=rank).surgery({"model": model.params}, jax.random.key(rank))
        made[name] = map_operators_with_path(random, changed)["model"]
    return made
