"""Scenes and captions in one space, read by MiniLM as published and a small ViT: LiT against training both towers.

The images and captions of `scene_captions`, whose text tower is made for their 17 words; here it is all-MiniLM-L6-v2,
which has read much and seen nothing. CLIP's loss over 1,000 captioned scenes. The image tower starts from one that was
trained on 8,000 scenes to name their contents without words, and stays (LiT, Zhai et al. 2021, arXiv:2111.07991) or
learns on with MiniLM, which learns at a twentieth of the other parameters' rate.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.assets import MINILM
from ft_jax.core import forward
from ft_jax.multimodal import clip, lit
from ft_jax.multimodal.clip import embed
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Parts, Stream, Task
from ft_jax.training.specs import Pretrained, share

from ..study import TUNED, after, beats
from ..trained import Trained
from .scene_captions import BOTH, namer
from .scenes import CONTENTS, DIGITS, RECALLS, VISION, caption, drawn, left_digit, sides, text_of

seeds = 3
NAME = "multimodal.clip"
WIDTH, TEXT_WIDTH, LENGTH = 64, 384, 10


def tokenizer() -> Any:
    """MiniLM's."""
    return Pretrained(MINILM).build(None).tokenizer


def read(texts: list[str], words: Any) -> dict[str, np.ndarray]:
    """Captions as MiniLM reads them, ``[captions, 10]``, which are eight words and two marks each."""
    tokens = data.tokenize(data.Dataset({"text": texts}), words, length=LENGTH)
    ids = np.stack(list(tokens.column("input_ids"))).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@dataclasses.dataclass(frozen=True)
class Read:
    """Scenes with their captions in MiniLM's tokens under ``paired``; `ft_jax.multimodal.clip` brings the tower."""

    count: int = 1000

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task; every content is tested once, with digits that training never shows."""
        words = tokenizer()

        def paired(scenes: data.Dataset) -> data.Dataset:
            found = read([text_of(ids) for ids in scenes.column("input_ids")], words)
            rows = [{name: field[row] for name, field in found.items()} for row in range(len(scenes))]
            return scenes.select("images", "labels").with_columns(paired=rows)

        train, test = paired(drawn(self.count, 1000 + feed.seed)), paired(drawn(CONTENTS, 7, "digits", "test"))
        source = data.batches(train, feed.batch_size, seed=feed.seed, **share(feed))
        return (Task("scenes", source, {"scenes": data.evaluation_batches(test, 200)}, len(train)),)


@dataclasses.dataclass(frozen=True)
class Tower:
    """The image tower, which may be another run's."""

    vision: Any = None

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        model = models.build(VISION, key)
        if self.vision is None or key is None:
            return model
        found = {name: part for name, part in self.vision.build(key).params.items() if name != "head"}
        return dataclasses.replace(model, params=found, drawn=())


def text_tower(parts: Parts):
    """CLIP with MiniLM as published."""
    tower = Pretrained(MINILM).build(parts.key)
    return clip(tower.apply, tower.params, width=WIDTH, inputs=(VISION.width, TEXT_WIDTH))


def both_sides(outputs, batch):
    """The unit embeddings of a batch's images and captions."""
    return {side: outputs.states[f"{NAME}/{which}"] for side, which in (("image", "model"), ("text", "other"))}


experiment = Experiment(
    name="multimodal/minilm_captions",
    model=Tower(Trained(namer)),
    data=Read(),
    method=(lit(), text_tower),
    loss=lambda model: forward(model.apply),
    predict=both_sides,
    metrics=RECALLS,
    optimizer=OptimizerSpec("adam", learning_rate=2e-3, schedule="linear", warmup=0.1, rates={f"{NAME}/tower/*": 0.05}),
    budget=Budget(steps=200, batch_size=128),
    evaluation=EvaluationSpec(metric="image_to_text", mode="max"),
    log_every=50,
)

baselines = {BOTH: dataclasses.replace(experiment, name="multimodal/minilm_captions-both", method=(text_tower,))}


def zero_shot_accuracy(result) -> float:
    """Of the digit on the left of every scene of the test set, by the mean embedding of four captions a digit."""
    test = drawn(CONTENTS, 7, "digits", "test")
    tower = Pretrained(MINILM).build(jax.random.key(0))
    contents = [[c for c in range(CONTENTS) if sides(c)[0][1] == digit][::10] for digit in DIGITS]
    prompts = read([caption(content) for few in contents for content in few], tower.tokenizer)
    images = np.asarray(test.column("images"))
    batch = {"images": images, "paired": prompts}
    x, y = jax.jit(lambda params: embed(result.model.apply, tower.apply, params, batch))(
        result.program.parameters(result.state)
    )
    heads = np.asarray(y).reshape(len(DIGITS), -1, WIDTH).mean(axis=1)
    heads /= np.linalg.norm(heads, axis=1, keepdims=True)
    told = np.argmax(np.asarray(x) @ heads.T, axis=1)
    return float(np.mean(told == left_digit(np.asarray(test.column("labels")))))


def rows(results):
    """The table: of each way its recalls and zero-shot accuracy, by seed."""
    for label, runs in results.items():
        for measure, of in (
            *((name, lambda result, name=name: after(result, name)) for name in RECALLS),
            ("zero_shot", zero_shot_accuracy),
        ):
            yield {"way": "LiT" if label == TUNED else label, "measure": measure, "values": [of(run) for run in runs]}


def claims(results):
    """What locking the image tower does."""
    return [
        beats(results, lambda result: after(result, "image_to_text"), BOTH, 0.0, "LiT's image to text recall@1"),
        beats(results, lambda result: after(result, "text_to_image"), BOTH, 0.0, "LiT's text to image recall@1"),
        beats(results, zero_shot_accuracy, BOTH, 0.0, "LiT's zero-shot accuracy of the left digit"),
    ]
