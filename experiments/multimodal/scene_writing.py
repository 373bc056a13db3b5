"""Captions written from scenes: an image tower, a projector and a small decoder, as LLaVA has them.

The decoder reads the image's tokens and writes "a small three left of a large seven"; the loss is on the caption alone.
The image tower starts from one that was trained to name the contents of scenes, or from nothing. Captions of scenes of
unseen digits are held against the right ones: exactly, and by BLEU where sacrebleu is installed.
"""

import dataclasses
import importlib.util
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.models import generate_from
from ft_jax.multimodal.evaluation import bleu, caption_picture, exact_match
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task
from ft_jax.training.specs import share

from ..study import TUNED, beats
from ..trained import Trained
from .scene_captions import namer
from .scenes import CONTENTS, END, TEXT, VISION, WORDS, caption, drawn, text_of, tokens

seeds = 3
NOTHING = "a tower from nothing"
PLACES = VISION.patches
IMAGE = len(WORDS)
"""Stands where an image's tokens go; no word has the id."""

LANGUAGE = models.DecoderConfig(
    vocabulary=len(WORDS) + 1, width=64, layers=2, heads=4, key_value_heads=4, head_width=16, mlp_width=128,
    positions=PLACES + TEXT.positions + 1,
)  # fmt: skip
WRITER = models.VisionLanguageConfig(VISION, LANGUAGE, image_token=IMAGE, feature_layer=None)


def with_captions(scenes: data.Dataset) -> data.Dataset:
    """Image places and the caption that begins on the left; each token predicts the next, the caption's alone count."""
    captions = np.stack([tokens(caption(content)) for content in np.asarray(scenes.column("labels"))])
    ids = np.concatenate([np.full((len(captions), PLACES), IMAGE, np.int32), captions], axis=1)
    counted = np.arange(ids.shape[1] - 1) >= PLACES - 1
    weights = np.broadcast_to(counted.astype(np.float32), ids[:, 1:].shape)
    images = np.asarray(scenes.column("images"))
    return data.Dataset({"images": images, "input_ids": ids[:, :-1], "labels": ids[:, 1:], "weights": weights})


@dataclasses.dataclass(frozen=True)
class Written:
    """Scenes with the captions to write."""

    count: int = 8000

    text_of = staticmethod(text_of)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train = with_captions(drawn(self.count, 2000 + feed.seed))
        test = with_captions(drawn(CONTENTS, 7, "digits", "test"))
        source = data.batches(train, feed.batch_size, seed=feed.seed, **share(feed))
        return (Task("scenes", source, {"scenes": data.evaluation_batches(test, 200)}, len(train)),)


@dataclasses.dataclass(frozen=True)
class Writer:
    """The model, whose image tower may be another run's."""

    vision: Any = None

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        model = models.build(WRITER, key)
        if self.vision is None or key is None:
            return model
        tower = {name: part for name, part in self.vision.build(key).params.items() if name != "head"}
        return dataclasses.replace(model, params={**model.params, "vision": tower})


experiment = Experiment(
    name="multimodal/scene_writing",
    model=Writer(Trained(namer)),
    data=Written(),
    optimizer=OptimizerSpec("adam", learning_rate=3e-3, schedule="linear", warmup=0.1, max_norm=1.0),
    budget=Budget(steps=500, batch_size=64),
    evaluation=EvaluationSpec(metric="loss"),
    log_every=100,
)

baselines = {NOTHING: dataclasses.replace(experiment, name="multimodal/scene_writing-nothing", model=Writer())}


def written(result) -> tuple[np.ndarray, list[str], list[str]]:
    """The test set's images, what the model writes to them, and what is right."""
    test = drawn(CONTENTS, 7, "digits", "test")
    images = np.asarray(test.column("images"))
    batch = {"images": images, "input_ids": np.full((len(images), PLACES), IMAGE, np.int32)}
    found = generate_from(
        result.model, result.params, batch, max_new_tokens=TEXT.positions, stop_tokens=(END,), pad_token=END
    )
    right = [caption(content) for content in np.asarray(test.column("labels"))]
    return images, [text_of(ids) for ids in np.asarray(found.tokens)], right


def rows(results):
    """The table: the share of captions that are right word for word, and BLEU."""
    for label, runs in results.items():
        way = "a tower that names" if label == TUNED else label
        pairs = [written(run)[1:] for run in runs]
        yield {"way": way, "measure": "exact match", "values": [exact_match(*pair) for pair in pairs]}
        if importlib.util.find_spec("sacrebleu"):
            yield {"way": way, "measure": "BLEU", "values": [bleu(*pair) for pair in pairs]}


def pictures(results, folder):
    """Eight scenes with what the first seed wrote to them."""
    images, said, right = written(results[TUNED][0])
    caption_picture(folder / "scene_writing.png", images[:8], said[:8], right[:8])


def claims(results):
    """Captions word for word right, of 400 kinds."""
    share_right = lambda result: exact_match(*written(result)[1:])  # noqa: E731
    return [beats(results, share_right, NOTHING, 0.05, "exact match with a tower that names")]
