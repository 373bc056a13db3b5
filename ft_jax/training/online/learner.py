"""A program's state that answers one example at a time and learns from it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import data
from ft_jax.core import Method, Program, TrainState, jit_step
from ft_jax.outside import read_json
from ft_jax.training.experiment import Experiment, OptimizerSpec
from ft_jax.training.on_policy import copied
from ft_jax.training.prepare import Plan, prepare
from ft_jax.training.serving.kept import Kept, load_run
from ft_jax.training.stream import Task

SHORTEST = 16
"""Tokens of the shortest texts that are answered in a program of their own."""


class Learner:
    """A model that answers and learns, one example at a time.

    Everything is compiled by `warm`, so that no line waits for it. Answers go through every method's forward pass, as
    an evaluation does; a step is the composition's own.

    Attributes:
      state: of the program.
      classes: the names of the classes; their numbers where they have none.

    Args:
      program: on one device.
      state: where it begins.
      model: for its tokenizer and the names of its classes.
      length: tokens that a learned text is padded to, and longer ones are cut to.
      classes: how many the head has.
    """

    def __init__(self, program: Program, state: TrainState, model: Any, length: int, classes: int):
        self.state, self._model, self._length = state, model, length
        self.classes = tuple(getattr(model, "classes", ())) or tuple(map(str, range(classes)))
        self._step = jit_step(program.step)
        self._answer = jax.jit(lambda state, batch: jax.nn.softmax(program.evaluate(state, batch).predictions[0]))

    @property
    def learned(self) -> int:
        """How many examples it has learned from."""
        return int(self.state.step)

    def lengths(self) -> list[int]:
        """Lengths that texts are padded to for an answer."""
        found = [self._length]
        while found[0] // 2 >= SHORTEST:
            found.insert(0, found[0] // 2)
        return found

    def batch(self, inputs: Mapping[str, Any], label: int = -1, shorter: bool = False) -> dict[str, np.ndarray]:
        """A batch of one example; the label -1 counts for nothing.

        Raises:
          ValueError: an image of another shape than the model's.
        """
        labels = np.asarray([label], np.int32)
        if "images" in inputs:
            image = np.asarray(inputs["images"], np.float32)
            wanted = getattr(self._model.config, "image", image.shape)
            if isinstance(wanted, tuple) and image.size == int(np.prod(wanted)):
                image = image.reshape(wanted)
            elif isinstance(wanted, tuple):
                raise ValueError(f"has an image of shape {image.shape}, and the model takes {wanted}; correct it")
            return {"images": image[None], "labels": labels}
        (encoded,) = data.encode(self._model.tokenizer, [inputs["text"]])
        ids = encoded.cut(self._length).ids
        length = next(one for one in (self.lengths() if shorter else [self._length]) if len(ids) <= one)
        return data.collate([{"input_ids": ids, "labels": labels[0]}], length, self._model.pad_token)

    def answer(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """The probability ``[classes]`` of every class."""
        return np.asarray(self._answer(self.state, self.batch(inputs, shorter=True)))

    def learn(self, inputs: Mapping[str, Any], label: int) -> float:
        """One step on an example; its loss, once the step is done."""
        self.state, metrics = self._step(self.state, self.batch(inputs, label))
        return float(metrics["loss"])

    def copied(self) -> TrainState:
        """The state without its frozen part, in arrays that the next step leaves alone."""
        return copied(self.state.replace(frozen=None))

    def warm(self, inputs: Mapping[str, Any]) -> None:
        """Compiles every answer and the step, and learns nothing."""
        kept = self.copied().replace(frozen=self.state.frozen)
        self.learn(inputs, 0)
        self.state = kept
        if "text" not in inputs:
            self.answer(inputs)
            return
        for length in self.lengths():
            batch = self.batch(inputs)
            cut = {name: x[:, :length] if np.ndim(x) == 2 else x for name, x in batch.items()}
            jax.block_until_ready(self._answer(self.state, cut))


@dataclasses.dataclass(frozen=True)
class KeptModel:
    """The model of a finished run, as a model spec."""

    run: str

    def build(self, key: jax.Array | None) -> Any:
        """The model with its adapters in place."""
        return load_run(self.run).alone("ft-jax stream RUN")


@dataclasses.dataclass(frozen=True)
class Blank:
    """Data for a learner whose examples are still to come: one task, whose batch shows their shapes."""

    length: int = 64

    def build(self, model: Any, feed: Any) -> Task:
        """A task of made-up examples."""
        if model.tokenizer is None and not hasattr(model.config, "image"):
            raise ValueError("the model has no tokenizer and takes no images, so it can't read lines; give it one")
        if model.problem_type is not None:
            raise ValueError(
                f"the model's problem is {model.problem_type}, and a stream answers with one class, learned from one; "
                "ft-jax predict answers with what it gives"
            )
        return Task("stream", _Blanks(model, self.length), ends=True, classes=tuple(model.classes))


class _Blanks:
    def __init__(self, model, length):
        image = getattr(model.config, "image", None)
        if image is not None:
            self._batch = {"images": np.zeros((1, *image), np.float32), "labels": np.zeros(1, np.int32)}
        else:
            ids = data.encode(model.tokenizer, ["a"])[0].cut(length).ids
            self._batch = data.collate([{"input_ids": ids, "labels": np.int32(0)}], length, model.pad_token)

    def __next__(self):
        return self._batch

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def of_run(run: str | Path) -> Experiment:
    """The experiment of going on with a finished run's model: what learned in it learns on, beside a replay buffer.

    Raises:
      FileNotFoundError, NoModel: as `ft_jax.training.serving.load_run`.
      ValueError: nothing that learned in the run is in its model any more.
    """
    from ft_jax.training.composition import Use

    kept: Kept = load_run(run)
    learned = set(read_json(Path(run) / "summary.json").get("parameters", {}).get("leaves", {}))
    learns = Method(name="stream", trainable=lambda path, leaf: path in learned)
    length = min(kept.reads.get("length") or 64, getattr(kept.model.config, "positions", 2**31))
    return Experiment(
        name=f"stream/{Path(run).name}",
        model=KeptModel(str(run)),
        data=Blank(length),
        method=(Use("incremental.replay", capacity=500, size=8), learns),
        optimizer=OptimizerSpec("adamw", learning_rate=1e-4),
    )


def learner_of(experiment: Experiment) -> tuple[Learner, Plan, list[str]]:
    """A learner of an experiment's model, methods and optimizer; what had to be changed for it, in sentences.

    Raises:
      ValueError: whatever `ft_jax.training.prepare.prepare` refuses, and a model that gives no classes.
    """
    told, optimizer = [], experiment.optimizer
    if getattr(optimizer, "schedule", "constant") != "constant" or getattr(optimizer, "warmup", 0.0):
        told.append(f"a stream has no last step, so the learning rate stays at {optimizer.learning_rate:g}")
        optimizer = dataclasses.replace(optimizer, schedule="constant", warmup=0.0)
    budget = dataclasses.replace(experiment.budget, accumulate=1)
    plan = prepare(dataclasses.replace(experiment, optimizer=optimizer, budget=budget, parallelism="single"))
    if "classes" not in plan.limits or plan.program.trials:
        raise ValueError(
            "ft-jax stream answers with classes, and this model gives none for an example; train a classifier"
        )
    state = jax.device_put(plan.plain.init(plan.model.params, plan.key), jax.local_devices()[0])
    length = int(getattr(experiment.data, "length", 64))
    return Learner(plan.plain, state, plan.model, length, plan.limits["classes"]), plan, told
