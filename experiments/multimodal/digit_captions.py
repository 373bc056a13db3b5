"""Images of digits and composed captions in one space: CLIP finds the caption of an image among those of a batch.

A caption says which digit it is and how it is drawn, "a thin seven", from the image's ink. The image tower is the
model; the text tower is a tiny encoder that the method brings along.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax import data, models
from ft_jax.core import forward
from ft_jax.multimodal import clip
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Parts, Stream, Task
from ft_jax.training.specs import Perceptron, share

WORDS = ["a", "thin", "bold", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = WORDS[3:]


def caption(image: np.ndarray, digit: int, threshold: float) -> np.ndarray:
    """The tokens of a caption, such as those of "a bold two"."""
    ink = "bold" if image.mean() > threshold else "thin"
    return np.array([WORDS.index(word) for word in ("a", ink, DIGITS[digit])], np.int32)


class Captioned:
    """Digits with the captions of their images under ``paired``."""

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task; evaluation retrieves among the captions of each batch."""
        train, test = data.load("digits", "train"), data.load("digits", "test")
        threshold = float(np.median(np.asarray(train.column("images")).mean(axis=(1, 2, 3))))

        def pair(example, generator):
            ids = caption(example["images"], int(example["labels"]), threshold)
            return {"images": example["images"], "paired": {"input_ids": ids}}

        source = data.batches(train, feed.batch_size, seed=feed.seed, transform=pair, **share(feed))
        evaluation = data.batches(test, feed.batch_size, epochs=1, shuffle=False, transform=pair)
        return (Task("captions", source, {"captions": list(evaluation)}, len(train)),)


def text_tower(parts: Parts):
    """CLIP with a tiny encoder over the captions' words."""
    tower = models.tiny_encoder(parts.key, vocabulary=len(WORDS), width=32)
    return clip(tower.apply, tower.params, width=32, inputs=(128, 32))


def similarities(outputs, batch):
    """Cosine similarity of each image with each caption of the batch, ``[images, captions]``."""
    return outputs.states["multimodal.clip/model"] @ outputs.states["multimodal.clip/other"].T


def retrieved(predictions, batch):
    """Share of images whose nearest caption reads like their own."""
    ids = batch["paired"]["input_ids"]
    nearest = ids[jnp.argmax(predictions, axis=1)]
    return jnp.sum(jnp.all(nearest == ids, axis=1)), ids.shape[0]


experiment = Experiment(
    name="multimodal/digit_captions",
    model=Perceptron(image=(8, 8, 1), widths=(128,), classes=None),
    data=Captioned(),
    method=(text_tower,),
    loss=lambda model: forward(model.apply),
    predict=similarities,
    metrics={"retrieval": retrieved},
    optimizer=OptimizerSpec("adam", learning_rate=3e-3, schedule="linear"),
    budget=Budget(steps=400, batch_size=64),
    evaluation=EvaluationSpec(metric="retrieval", mode="max"),
    log_every=50,
    expect={"retrieval": 0.8, "retrieval_gain": 0.6},
)
