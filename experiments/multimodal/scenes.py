"""Scenes of two digits, each small or large, with captions that say them: "a small three left of a large seven".

A scene has one of 400 contents (two sizes times ten digits, twice) and two captions, one for each of the digits to
begin with. Digits are scikit-learn's, of 8 by 8 pixels, or MNIST's brought to that size; a large one is twice as wide.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import data, models
from ft_jax.multimodal import zero_shot
from ft_jax.multimodal.evaluation import recalls
from ft_jax.training import Feed, Stream, Task
from ft_jax.training.metrics import HostMetric
from ft_jax.training.specs import share

SIDE = 8
SIZES = ("small", "large")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("<padding>", "a", "of", "left", "right", *SIZES, *DIGITS, "<end>")
END = len(WORDS) - 1
"""The largest id: where a CLIP reads the sentence's vector."""

THINGS = tuple(itertools.product(SIZES, DIGITS))
CONTENTS = len(THINGS) ** 2

VISION = models.ViTConfig((2 * SIDE, 4 * SIDE, 1), patch=8, width=64, layers=2, heads=4, mlp_width=128, classes=None)
TEXT = models.TextTowerConfig(len(WORDS), width=64, layers=1, heads=4, mlp_width=128, positions=9)
CLIP = models.DualConfig(VISION, TEXT, width=64)


def sides(content: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """What is left and what is right, each ``(size, digit)``.

    Example:
      >>> sides(3 * 20 + 17)
      (('small', 'three'), ('large', 'seven'))
    """
    return THINGS[content // len(THINGS)], THINGS[content % len(THINGS)]


def caption(content: int, first: int = 0) -> str:
    """The caption that begins with the left digit, or with ``first=1`` with the right one.

    Example:
      >>> caption(77), caption(77, first=1)
      ('a small three left of a large seven', 'a large seven right of a small three')
    """
    one, other = sides(content)[:: -1 if first else 1]
    return f"a {' '.join(one)} {('left', 'right')[first]} of a {' '.join(other)}"


def tokens(text: str) -> np.ndarray:
    """A caption's ids, the end's last."""
    return np.array([*(WORDS.index(word) for word in text.split()), END], np.int32)


def text_of(ids: Any) -> str:
    """The words before the end.

    Example:
      >>> text_of(tokens("a small three left of a large seven"))
      'a small three left of a large seven'
    """
    words = [WORDS[index] for index in np.asarray(ids)]
    return " ".join(words[: words.index("<end>")] if "<end>" in words else words)


@functools.cache
def digits(address: str, split: str) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Images ``[examples, 8, 8]`` of a split, and the places of each digit's."""
    found = data.load(address, split)
    images = np.asarray([np.asarray(image)[..., 0] for image in found.column("images")], np.float32)
    if images.shape[1] != SIDE:
        images = np.asarray(jax.image.resize(images, (len(images), SIDE, SIDE), "linear"))
    labels = np.asarray(found.column("labels"))
    return images, tuple(np.flatnonzero(labels == digit) for digit in range(len(DIGITS)))


def draw(content: int, generator: np.random.Generator, address: str = "digits", split: str = "train") -> np.ndarray:
    """A scene ``[16, 32, 1]``; a small digit stands in the middle of its half, or a pixel beside."""
    images, places = digits(address, split)
    canvas = np.zeros((2 * SIDE, 4 * SIDE, 1), np.float32)
    for half, (size, digit) in enumerate(sides(content)):
        image = images[generator.choice(places[DIGITS.index(digit)])]
        down, right = (0, 0) if size == "large" else generator.integers(SIDE // 2 - 1, SIDE // 2 + 2, 2)
        image = np.kron(image, np.ones((2, 2), np.float32)) if size == "large" else image
        left = right + half * 2 * SIDE
        canvas[down : down + len(image), left : left + len(image), 0] = image
    return canvas


def drawn(count: int, seed: int, address: str = "digits", split: str = "train") -> data.Dataset:
    """So many scenes with a caption each, all contents about equally often; ``labels`` are the contents."""
    generator = np.random.default_rng(seed)
    contents = generator.permutation(np.arange(count) % CONTENTS)
    return data.Dataset(
        {
            "images": np.stack([draw(content, generator, address, split) for content in contents]),
            "input_ids": np.stack([tokens(caption(content, int(generator.integers(2)))) for content in contents]),
            "labels": contents.astype(np.int32),
        }
    )


def dimmed(scenes: data.Dataset) -> data.Dataset:
    """Grey digits before a wall that is lit from the left: another domain."""
    images = np.asarray(scenes.column("images"))
    wall = np.linspace(0.5, 0.2, images.shape[2], dtype=np.float32)[:, None]
    return scenes.with_columns(images=wall + 0.3 * images)


def lefts(scenes: data.Dataset) -> data.Dataset:
    """Images with the digit on the left as the label."""
    return scenes.select("images", "labels").with_columns(labels=left_digit(np.asarray(scenes.column("labels"))))


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes with captions; the evaluation sets hold every content once, of digits that training never shows.

    Attributes:
      count: of training scenes, drawn by the run's seed.
      dim: whether training shows them in dim light.
      left: whether labels are the digit on the left, without captions.
      address: of the digits, ``digits`` or ``mnist:PATH.npz``.
    """

    count: int = 8000
    dim: bool = False
    left: bool = False
    address: str = "digits"

    text_of = staticmethod(text_of)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, test = drawn(self.count, 1000 + feed.seed, self.address), drawn(CONTENTS, 7, self.address, "test")
        sets = {"scenes": test} | ({"dim scenes": dimmed(test)} if self.dim else {})
        train = dimmed(train) if self.dim else train
        if self.left:
            train, sets = lefts(train), {name: lefts(one) for name, one in sets.items()}
        source = data.batches(train, feed.batch_size, seed=feed.seed, **share(feed))
        evaluations = {name: data.evaluation_batches(one, 200) for name, one in sets.items()}
        return (Task("scenes", source, evaluations, len(train)),)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A CLIP of `CLIP`'s shape, or smaller, whose image tower may be another run's.

    Attributes:
      config: its shape.
      vision: the spec of an image classifier of the same shape, which gives its tower.
    """

    config: models.DualConfig = CLIP
    vision: Any = None

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        model = models.build(self.config, key)
        if self.vision is None or key is None:
            return model
        tower = {name: part for name, part in self.vision.build(key).params.items() if name != "head"}
        return dataclasses.replace(model, params={**model.params, "vision": tower})


def both_features(outputs, batch):
    """A batch's features, for metrics of the whole set."""
    return {side: outputs.states[f"{side}_features"] for side in ("image", "text")}


def recall(which: str) -> HostMetric:
    """Recall@1 among all scenes of the set, ``image_to_text`` or ``text_to_image``; equal contents are right."""

    def score(features, batch):
        x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (features["image"], features["text"]))
        same = batch["labels"][:, None] == batch["labels"]
        return recalls(x @ y.T, ks=(1,), same=same)[f"{which}@1"]

    return HostMetric(score)


RECALLS = {name: recall(name) for name in ("image_to_text", "text_to_image")}


def prompts() -> np.ndarray:
    """For each digit on the left the captions that begin with it, ``[10, 40, 9]``: an ensemble of prompts a class."""
    by_digit = [
        [tokens(caption(content)) for content in range(CONTENTS) if sides(content)[0][1] == digit] for digit in DIGITS
    ]
    return np.asarray(by_digit)


def left_digit(contents: Any) -> Any:
    """The digit on the left.

    Example:
      >>> int(left_digit(77))
      3
    """
    return contents // len(THINGS) % len(DIGITS)


@functools.partial(jax.jit, static_argnums=(0, 3))
def told_left(apply: Callable, params: Any, images: Any, every: int = 1) -> jax.Array:
    """The likeliest digit on the left of images, by a head made of every so many of its `prompts`."""
    return jnp.argmax(zero_shot(apply, prompts()[:, ::every])(params, {"images": images}).logits, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def features(apply: Callable, params: Any, batch: Any) -> dict[str, jax.Array]:
    """`both_features` of a batch."""
    return both_features(apply(params, batch), batch)
