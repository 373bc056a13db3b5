"""Padded examples and tokens count nothing, whatever the layout of the batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ft_jax.core.state import Batch
from ft_jax.data.collate import with_row_weights
from ft_jax.data.completions import IGNORED
from ft_jax.testing.comparing import close, finite
from ft_jax.testing.problem import VOCABULARY
from ft_jax.testing.subject import Subject

TOLERANCE = 1e-6


def padding_counts_nothing(subject: Subject) -> None:
    """A batch of which half is padding has the terms, gradients and events of its real half, whatever padding holds.

    States after three steps are compared, what methods remember and their numbers included; where the tokens hidden by
    the attention mask are others too, what learns and the metrics: a buffer may keep what is hidden. A batch of nothing
    but padding leaves what learns finite.
    """
    padded = half_padding(subject.batch)
    close(subject.train(batch=padded), subject.run, TOLERANCE)
    state, metrics = subject.train(batch=other_hidden_tokens(padded))
    close((state.params, metrics), (subject.run[0].params, subject.run[1]), TOLERANCE)
    state, metrics = subject.train(batch=weightless(padded), steps=1)
    assert finite((state.params, metrics)), f"{subject.name} divides by the number of examples, which may be 0"


def half_padding(batch: Batch) -> dict[str, Any]:
    """As many rows again, as the data pipeline writes them: the first one repeated, with weights of 0.

    Example:
      >>> half_padding({"input_ids": np.array([[5, 6]]), "labels": np.array([1])})["weights"].tolist()
      [1.0, 0.0]
    """
    parts = {name: half_padding(value) for name, value in batch.items() if isinstance(value, Mapping)}
    plain = {name: np.asarray(value) for name, value in batch.items() if name not in parts}
    more = {name: np.concatenate([value, np.repeat(value[:1], len(value), 0)]) for name, value in plain.items()}
    if {"labels", "weights"} & plain.keys():
        more = with_row_weights(more, len(next(iter(plain.values()))))
    return {**more, **parts}


def other_hidden_tokens(batch: Batch) -> dict[str, Any]:
    """The batch with other tokens where the attention mask is 0, and labels of -1.

    Example:
      >>> ids = {"input_ids": np.array([[5, 6]]), "labels": np.array([[6, 1]]), "attention_mask": np.array([[1, 0]])}
      >>> {name: value.tolist() for name, value in other_hidden_tokens(ids).items()}
      {'input_ids': [[5, 13]], 'labels': [[6, -1]], 'attention_mask': [[1, 0]]}
    """
    parts = {name: other_hidden_tokens(value) for name, value in batch.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in batch.items() if name not in parts}
    if "attention_mask" in plain:
        hidden, ids = plain["attention_mask"] == 0, plain["input_ids"]
        plain["input_ids"] = np.where(hidden, (ids + 7) % VOCABULARY, ids)
        if "labels" in plain and plain["labels"].shape == hidden.shape:
            plain["labels"] = np.where(hidden, IGNORED, plain["labels"])
    return {**plain, **parts}


def weightless(batch: Batch) -> dict[str, Any]:
    """The batch with all weights 0."""
    return {
        name: weightless(value) if isinstance(value, Mapping) else np.zeros_like(value) if name == "weights" else value
        for name, value in batch.items()
    }
