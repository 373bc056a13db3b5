"""Small models and data for runs that take a second."""

import dataclasses
import os
import signal
import time
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.core import Outputs, matmul
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OnPolicy, OptimizerSpec, Task, Use

VOCABULARY, TIME, CLASSES = 32, 6, 3


@dataclasses.dataclass(frozen=True)
class Linear:
    """A two-layer classifier of points, as a model a user would bring."""

    width: int = 8
    classes: int = CLASSES
    scale: float = 0.5

    def build(self, key):
        keys = jax.random.split(key, 2)
        params = {
            "layer": {"kernel": self.scale * jax.random.normal(keys[0], (4, self.width))},
            "head": {"kernel": self.scale * jax.random.normal(keys[1], (self.width, self.classes))},
        }
        return OwnModel(params)


@dataclasses.dataclass(frozen=True)
class OwnModel:
    params: Any
    tokenizer: Any = None

    @staticmethod
    def apply(params, batch, key=None):
        hidden = jax.numpy.tanh(matmul(params["layer"]["kernel"], batch["x"]))
        return Outputs(hidden=hidden, unembedding=params["head"]["kernel"])


@dataclasses.dataclass(frozen=True)
class TinyDecoder:
    """The decoder of the laws."""

    layers: int = 2

    def build(self, key):
        return models.tiny_decoder(key, vocabulary=VOCABULARY, layers=self.layers)


def stream(dataset: data.Dataset, feed: Feed):
    """A process's share of the batches."""
    return data.batches(dataset, feed.batch_size, seed=feed.seed, process=feed.process, processes=feed.processes)


def points(count: int, seed: int, shift: float = 0.0) -> data.Dataset:
    """Points of three well separated groups."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    centres = np.random.default_rng(7).normal(size=(CLASSES, 4)) * 2
    x = centres[labels] + shift + 0.5 * draw.normal(size=(count, 4))
    return data.Dataset({"x": x.astype(np.float32), "labels": labels.astype(np.int32)}, ("a", "b", "c"))


@dataclasses.dataclass(frozen=True)
class Points:
    """Point classification; each shift is a task.

    Attributes:
      shifts: of the points, one for each task.
      count: training examples of a task.
      spoil: what one training point is replaced by, or None.
    """

    shifts: tuple[float, ...] = (0.0,)
    count: int = 50
    spoil: float | None = None

    def build(self, model, feed: Feed):
        sets = {f"shift{shift:g}": data.evaluation_batches(points(21, 1, shift), 8) for shift in self.shifts}
        return tuple(
            Task(
                f"shift{shift:g}",
                self._killing(stream(self._train(shift), feed)),
                sets,
                self.count,
            )
            for shift in self.shifts
        )

    def _train(self, shift):
        made = points(self.count, 2, shift)
        if self.spoil is not None:
            made.columns["x"][3, 1] = self.spoil
        return made

    def _killing(self, source):
        kill_at = os.environ.get("KILL_AT_BATCH")
        return source if kill_at is None else Killing(source, int(kill_at))


@dataclasses.dataclass(frozen=True)
class Played:
    """Points whose labels the policy in training guesses; of two guesses the host keeps the right one.

    Attributes:
      reuse, ahead: see `ft_jax.training.OnPolicy`.
      count: rows of a batch.
    """

    reuse: int = 1
    ahead: bool = False
    count: int = 8

    def build(self, model, feed: Feed):
        def act(params, batch, context):
            logits = context.run(model.apply, params, batch).logits
            keys = context.keys_for("guess", batch)
            return {"guess": jax.vmap(jax.random.categorical)(keys, logits).astype(jax.numpy.int32)}

        def make(ask, given):
            seen = {"x": given["x"]}
            first, second = ask(seen)["guess"], ask(seen)["guess"]
            guess = np.where(second == given["labels"], second, first)
            return {**seen, "labels": guess, "weights": (guess == given["labels"]).astype(np.float32) + 0.1}

        like = {name: np.zeros((self.count, *shape), kind) for name, (shape, kind) in FIELDS.items()}
        source = Points()._killing(stream(points(50, 2), feed))
        asks = {"x": like["x"]}
        played = OnPolicy(source, act, make, like, asks, reuse=self.reuse, ahead=self.ahead)
        return Task("own", played, {"test": data.evaluation_batches(points(16, 1), 8)})


FIELDS = {"x": ((4,), np.float32), "labels": ((), np.int32), "weights": ((), np.float32)}


class Killing:
    """A source that kills its process, as the kernel would, when so many batches were asked for."""

    def __init__(self, source, at: int):
        self.source, self.at, self.count = source, at, 0

    def __next__(self):
        self.count += 1
        if self.count == self.at:
            time.sleep(1.0)  # what is being written meanwhile gets to the disk
            os.kill(os.getpid(), signal.SIGKILL)
        return next(self.source)

    def get_state(self):
        return self.source.get_state()

    def set_state(self, state):
        self.source.set_state(state)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Random sequences in which each example counts another number of tokens."""

    count: int = 64
    time: int = TIME
    vocabulary: int = VOCABULARY

    def build(self, model, feed: Feed):
        draw = np.random.default_rng(0)
        ids = draw.integers(0, self.vocabulary, (self.count, self.time + 1)).astype(np.int32)
        counted = np.arange(self.time) < 1 + np.arange(self.count)[:, None] % self.time
        columns = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "weights": counted.astype(np.float32)}
        source = stream(data.Dataset(columns), feed)
        held_out = [{name: column[:9] for name, column in columns.items()}]
        return (Task("tokens", source, {"held_out": held_out}, self.count),)


def experiment(**changes) -> Experiment:
    """A classifier of points with everything at its smallest."""
    made = Experiment(
        name="points",
        model=Linear(),
        data=Points(),
        method=(Use("transfer.full"),),
        optimizer=OptimizerSpec("adam", 0.02),
        budget=Budget(steps=12, batch_size=8),
        evaluation=EvaluationSpec(every=4, metric="accuracy", mode="max"),
        log_every=1,
    )
    return dataclasses.replace(made, **changes)


def arrays(tree) -> list[np.ndarray]:
    """The leaves as numpy arrays, random keys as their bits."""
    leaves = jax.tree.leaves(tree)
    typed = [jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(leaf) if key else leaf) for key, leaf in zip(typed, leaves, strict=True)]


def same_bits(one, other) -> None:
    """Asserts that two trees are equal to the last bit."""
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)
