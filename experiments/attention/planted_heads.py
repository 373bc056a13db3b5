"""Head gates find which heads of a model are in use.

Half of the heads of a random model are switched off, and it labels sentences. Gates on the whole model (hard concrete,
Louizos et al. 2018; on heads Voita et al. 2019) learn from the labels alone, with a price on every open gate, which
heads the labels were made with.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import data, models
from ft_jax.attention import gates_of
from ft_jax.attention.gates import Gate
from ft_jax.core.grafts import graft
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use

from ..study import TUNED, Claim

LAYERS, HEADS, VOCABULARY, LENGTH = 2, 4, 32, 12


@dataclasses.dataclass(frozen=True)
class RandomDecoder:
    """A random decoder of two layers with four heads each, whose attention is most of what it does."""

    def build(self, key: jax.Array | None):
        """The model, drawn with `key`."""
        config = models.DecoderConfig(
            vocabulary=VOCABULARY, width=32, layers=LAYERS, heads=HEADS, key_value_heads=HEADS, head_width=8,
            mlp_width=16, tied=False,
        )  # fmt: skip
        model = models.decoder(config, key)
        if key is None:
            return model
        params = dict(model.params)
        params["head"] = {"kernel": 4.0 * params["head"]["kernel"]}
        params["layers"] = {
            name: {
                **layer,
                "attention": {
                    part: {"kernel": (4.0 if part != "value" else 1.0) * own["kernel"]}
                    for part, own in layer["attention"].items()
                },
            }
            for name, layer in params["layers"].items()
        }
        return dataclasses.replace(model, params=params)


def masks(seed: int) -> np.ndarray:
    """Which heads are in use: half of each layer's."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(HEADS) < HEADS // 2 for _ in range(LAYERS)]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LabelsOfHalf:
    """Random tokens, each with the token that the model with half of its heads finds likeliest there."""

    sentences: int = 2000

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        ids = np.random.default_rng(feed.seed).integers(VOCABULARY, size=(self.sentences, LENGTH)).astype(np.int32)
        half = model.params
        for layer, mask in enumerate(masks(feed.seed)):
            half = graft(half, f"layers/{layer}/attention", "planted", Gate(jnp.asarray(mask)))
        logits = jax.jit(lambda params, batch: model.apply(params, batch).logits)(half, {"input_ids": ids})
        labels = np.asarray(jnp.argmax(logits, axis=-1), np.int32)
        examples = data.Dataset({"input_ids": ids, "labels": labels})
        source = data.batches(examples.take(self.sentences - 100), feed.batch_size, seed=feed.seed)
        held_out = examples.take(np.arange(self.sentences - 100, self.sentences))
        return (Task("sentences", source, {"sentences": data.evaluation_batches(held_out, 100)}, self.sentences - 100),)


experiment = Experiment(
    name="attention/planted_heads",
    model=RandomDecoder(),
    data=LabelsOfHalf(),
    method=(Use("attention.head_gates", sampled=True, penalty=0.3),),
    optimizer=OptimizerSpec("adam", learning_rate=0.1, schedule="linear"),
    budget=Budget(steps=200, batch_size=50),
    evaluation=EvaluationSpec(metric="token_accuracy", mode="max"),
    log_every=50,
)
seeds = 3


def found(result, seed: int) -> float:
    """The share of heads whose gate is on the right side of a half."""
    gates = np.stack(gates_of(result.params, "attention.head_gates"))
    return float(np.mean((gates > 0.5) == (masks(seed) > 0.5)))


def claims(results):
    """How many of the planted heads are found."""
    share = np.mean([found(result, seed) for seed, result in enumerate(results[TUNED])])
    return [Claim(f"gates tell {share:.3f} of the heads rightly, at least 0.85 was claimed", bool(share >= 0.85))]
