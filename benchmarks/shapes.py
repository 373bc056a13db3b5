"""The shapes that benchmarks run, by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import models
from ft_jax.core.weights import cast
from ft_jax.models import DecoderConfig, EncoderConfig, Model


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's configuration with the batch and compute type it is measured at.

    Attributes:
      config: an encoder's or a decoder's.
      batch: examples a step.
      time: tokens an example.
      dtype: of the arithmetic and of the frozen weights.
      classes: of a classifier's head; None for a language model.
    """

    config: EncoderConfig | DecoderConfig
    batch: int
    time: int
    dtype: str = "bfloat16"
    classes: int | None = None

    def model(self, key: jax.Array | None) -> Model:
        """The model with random weights; without a key, their shapes alone."""
        config = dataclasses.replace(self.config, dtype=self.dtype)
        build = models.encoder if isinstance(config, EncoderConfig) else models.decoder
        model = build(config, None)
        if self.classes is not None:
            model = models.with_classifier(model, self.classes, None)
        if key is None:
            params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(self.dtype)), model.params)
            return dataclasses.replace(model, params=params)

        @jax.jit
        def draw(key):
            drawn = build(config, key)
            if self.classes is not None:
                drawn = models.with_classifier(drawn, self.classes, key)
            return cast(drawn.params, jnp.dtype(self.dtype))

        return dataclasses.replace(model, params=draw(key))

    def examples(self, seed: int = 0) -> dict[str, np.ndarray]:
        """A host batch of random tokens, each predicting the next, or with random classes."""
        random = np.random.default_rng(seed)
        ids = random.integers(1, self.config.vocabulary, (self.batch, self.time + 1), dtype=np.int32)
        if self.classes is None:
            return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        return {
            "input_ids": ids[:, :-1],
            "attention_mask": np.ones((self.batch, self.time), np.int32),
            "labels": random.integers(0, self.classes, self.batch, dtype=np.int32),
        }


def _llama(width, layers, heads, key_value_heads, mlp_width, vocabulary=128_256, tied=True) -> DecoderConfig:
    return DecoderConfig(
        vocabulary=vocabulary, width=width, layers=layers, heads=heads, key_value_heads=key_value_heads,
        head_width=128 if width > 2048 else 64, mlp_width=mlp_width, positions=131_072, rope_theta=500_000.0,
        tied=tied,
    )  # fmt: skip


MINILM = EncoderConfig(vocabulary=30_522, width=384, layers=6, heads=12, mlp_width=1536)

SHAPES = {
    "tiny": Shape(
        DecoderConfig(
            vocabulary=128, width=32, layers=2, heads=2, key_value_heads=1, head_width=16, mlp_width=64, positions=64
        ),
        batch=2, time=16, dtype="float32",
    ),
    "small": Shape(
        DecoderConfig(
            vocabulary=4096, width=256, layers=4, heads=4, key_value_heads=2, head_width=64, mlp_width=768, tied=False
        ),
        batch=4, time=128, dtype="float32",
    ),
    "tiny-encoder": Shape(
        EncoderConfig(vocabulary=128, width=32, layers=2, heads=2, mlp_width=64, positions=64),
        batch=2, time=16, dtype="float32", classes=2,
    ),
    "minilm": Shape(MINILM, batch=32, time=64, dtype="float32", classes=2),
    "smollm2-135m": Shape(
        DecoderConfig(
            vocabulary=49_152, width=576, layers=30, heads=9, key_value_heads=3, head_width=64, mlp_width=1536,
            positions=8192, rope_theta=100_000.0,
        ),
        batch=4, time=256, dtype="float32",
    ),
    "llama-1b": Shape(_llama(2048, 16, 32, 8, 8192), batch=8, time=2048),
    "llama-3b": Shape(_llama(3072, 28, 24, 8, 8192), batch=4, time=2048),
    "llama-8b": Shape(_llama(4096, 32, 32, 8, 14_336, tied=False), batch=2, time=2048),
}  # fmt: skip
"""The shapes of published models by name, with random weights and the batch each is measured at."""


def shape(name: str, **changes) -> Shape:
    """The shape called `name` with some of `batch`, `time`, `dtype`, or of its configuration's fields, changed.

    Raises:
      ValueError: on an unknown name.

    Example:
      >>> shape("llama-1b", batch=4, remat="full").config.remat
      'full'
    """
    if name not in SHAPES:
        raise ValueError(f"there is no shape {name!r}; use one of {', '.join(SHAPES)}")
    found = SHAPES[name]
    own = {field.name for field in dataclasses.fields(found)}
    changes = {field: value for field, value in changes.items() if value is not None}
    inner = {field: changes.pop(field) for field in list(changes) if field not in own}
    return dataclasses.replace(found, config=dataclasses.replace(found.config, **inner), **changes)
