"""A text model so small that a run with files of one's own takes a second."""

import dataclasses
import json

import jax
import numpy as np
from data.tiny_tokenizers import for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax import models
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Texts

WORDS = ("the", "a", "film", "was", "is", "good", "bad", "not", "very", "and", "really", "awful", "great", "plot")


@dataclasses.dataclass(frozen=True)
class TextModel:
    """An encoder that pools, with a head of any kind."""

    kind: str = "classification"
    outputs: int | None = 3

    def build(self, key):
        keys = (None, None) if key is None else jax.random.split(key)
        model = models.tiny_encoder(keys[0], layers=1)
        model = dataclasses.replace(model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=for_encoders()))
        return models.with_head(model, self.kind, keys[1], self.outputs)


def rows(folder, name, labels, count=60):
    """A jsonl of so many different sentences with those labels in turn."""
    draw = np.random.default_rng(len(name))
    path = folder / name
    texts = [" ".join(draw.choice(WORDS, 3 + at % 3)) + f" {at}" for at in range(count)]
    lines = [{"text": text, "label": labels[at % len(labels)]} for at, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def experiment(*addresses, model=None, out=None, texts=None, **changes):
    """Two steps over those files."""
    made = Experiment(
        name="texts",
        model=model or TextModel(),
        data=Texts(addresses, length=12, **(texts or {})),
        method=(Use("transfer.full"),),
        optimizer=OptimizerSpec("adam", 0.01),
        budget=Budget(steps=2, batch_size=8),
        evaluation=EvaluationSpec(),
        out=None if out is None else str(out),
    )
    return dataclasses.replace(made, **changes)
