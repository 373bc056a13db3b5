"""Attentive pooling finds the one token of a sentence that decides.

Sentences of random tokens hold one marker, and its kind is the label. The encoder is random and stays so; a head on
the mean of its tokens has to see one marker among 15 others, a head on attentive pooling (Yang et al. 2016) learns to
weigh the markers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import data, models
from ft_jax.attention import pooling_of
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use

from ..study import TUNED, Claim, after, beats

VOCABULARY, LENGTH, CLASSES, KINDS = 100, 16, 4, 2


@dataclasses.dataclass(frozen=True)
class RandomEncoder:
    """Two random layers with a classifier on the mean of the tokens."""

    def build(self, key: jax.Array | None):
        """The model, drawn with `key`."""
        encoder = models.tiny_encoder(key, vocabulary=VOCABULARY, width=64)
        return models.with_classifier(encoder, CLASSES, key)


def planted(count: int, seed: int) -> dict[str, np.ndarray]:
    """Sentences with one marker: class ``c`` has the markers ``c · KINDS`` to ``(c + 1) · KINDS - 1``."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(CLASSES * KINDS, VOCABULARY, (count, LENGTH))
    labels, places = generator.integers(CLASSES, size=count), generator.integers(LENGTH, size=count)
    ids[np.arange(count), places] = labels * KINDS + generator.integers(KINDS, size=count)
    return {"input_ids": ids.astype(np.int32), "labels": labels.astype(np.int32), "places": places}


@dataclasses.dataclass(frozen=True)
class Markers:
    """Sentences to train on, and others to test on."""

    labelled: int = 1000

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, test = (
            data.Dataset({field: x for field, x in planted(count, seed).items() if field != "places"})
            for count, seed in ((self.labelled, feed.seed), (400, 10**6))
        )
        source = data.batches(train, feed.batch_size, seed=feed.seed)
        return (Task("markers", source, {"markers": data.evaluation_batches(test, 100)}, len(train)),)


experiment = Experiment(
    name="attention/planted_tokens",
    model=RandomEncoder(),
    data=Markers(),
    method=(Use("attention.attentive_pooling", hidden=32),),
    optimizer=OptimizerSpec("adam", learning_rate=1e-2, schedule="linear"),
    budget=Budget(steps=200, batch_size=50),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=50,
)

baselines = {
    "a head on the mean": dataclasses.replace(
        experiment, name="attention/planted_tokens-mean", method=(Use("transfer.head_only"),)
    )
}
seeds = 3


def weight_on_markers(result) -> float:
    """What the marker of a test sentence weighs, on average; 1/16 if all tokens weighed the same."""
    test = planted(400, 10**6)
    tokens = dataclasses.replace(result.model.apply, pooling=None, kind=None)
    hidden = jax.jit(tokens)(result.params, {"input_ids": test["input_ids"]}).hidden
    weights = pooling_of(result.params).weights(hidden, jnp.ones(hidden.shape[:2]))
    return float(jnp.mean(weights[jnp.arange(len(weights)), test["places"]]))


def claims(results):
    """Accuracy on new sentences, and where the weight of their pooling lies."""
    weight = np.mean([weight_on_markers(result) for result in results[TUNED]])
    text = f"a marker weighs {weight:.3f} of its sentence, an even share is {1 / LENGTH:.3f}; at least 0.3 was claimed"
    return [
        beats(results, after, "a head on the mean", 0.1, "accuracy on new sentences"),
        Claim(text, bool(weight >= 0.3)),
    ]
