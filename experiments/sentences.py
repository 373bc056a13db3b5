"""Labelled sentences as the frozen features of MiniLM, for experiments whose networks read vectors."""

import functools
from pathlib import Path

import jax
import numpy as np

from ft_jax import data
from ft_jax.assets import MINILM
from ft_jax.training.specs import Pretrained

from .pictures import Part


@functools.cache
def _encoder():
    """MiniLM, loaded once, and the mean of its last hidden states over the tokens of each sentence."""
    model = Pretrained(MINILM, classes=2, pooling="mean").build(jax.random.key(0))
    return model, jax.jit(lambda params, batch: model.apply(params, batch, None).hidden)


def embedded(domain: str, split: str, most: int, length: int = 32, folder: Path | None = None) -> Part:
    """Sentences of a domain, each class with its share, as the mean of MiniLM's last hidden states, and their labels.

    Args:
      domain: of `ft_jax.data.sentiment.DOMAINS`.
      split: of it.
      most: sentences at most.
      length: tokens of a sentence; what is longer is cut.
      folder: that keeps what was embedded; None keeps nothing.
    """
    file = None if folder is None else folder / f"{domain}-{split}-{most}-{length}.npz"
    if file is None or not file.exists():
        found = data.load(f"sentiment:{domain}", split).select("text", "labels")
        found = data.sample(found, min(most, len(found)))
        model, hidden = _encoder()
        tokens = data.tokenize(found, model.tokenizer, length=length, too_long="truncate")
        batches = data.evaluation_batches(tokens, 50, length=(length,), padding=model.pad_token)
        rows = np.concatenate([np.asarray(hidden(model.params, dict(batch))) for batch in batches])[: len(found)]
        part = rows, np.asarray(found.column("labels"), np.int32)
        if file is None:
            return part
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, x=part[0], y=part[1])
    with np.load(file) as kept:
        return kept["x"], kept["y"]
