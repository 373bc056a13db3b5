"""A teacher in the step against one that is written down: bytes on disk a token, memory, and seconds where asked.

The teacher is SmolLM2-135M, the student every fifth of its 30 layers, which learns in full; the text is sentences of
newspaper editorials. ``disk`` writes the cache as ``ft-jax cache-teacher`` does, ``memory`` compiles the step of both
ways and does not run it, ``seconds`` runs both in turns.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, distillation, models
from ft_jax.assets import SMOLLM2
from ft_jax.core import Method, jit_step, make_step, optimizer, supervised
from ft_jax.data.teacher_cache import IDS, VALUES
from ft_jax.models import Model
from ft_jax.training import Experiment, Feed
from ft_jax.training.caching import Written as Cache
from ft_jax.training.caching import cache_teacher
from ft_jax.training.own_data import Written

from .case import Options
from .programs import Step
from .timing import Runner, memory, spread

METHODS = ("disk", "memory", "seconds")
TEACHERS = {"smollm2-135m": (SMOLLM2, 5)}
"""The teacher's address by size, and of how many layers the student has one."""

ROWS, TOP = 64, 64
"""Sentences that are cached, and classes a token."""


@dataclasses.dataclass(frozen=True)
class Student:
    """A model of some of its teacher's layers.

    Attributes:
      address: of the teacher.
      every: of so many layers the student has the last.
    """

    address: str
    every: int

    def build(self, key: jax.Array | None) -> Model:
        """The model; without a key its shapes alone."""
        whole = models.load(self.address, abstract=key is None)
        return models.with_layers(whole, range(self.every - 1, whole.config.layers, self.every))


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A row for the disk, and one a way for the memory and for the seconds.

    Raises:
      ValueError: an unknown size or method.
    """
    asked = options.asked("cached_teacher", METHODS, default=METHODS[:2])
    size = options.size or "smollm2-135m"
    if size not in TEACHERS:
        raise ValueError(f"there is no teacher {size!r}; use one of {', '.join(TEACHERS)}")
    address, every = TEACHERS[size]
    batch, time = options.batch or 8, options.time or 64
    with tempfile.TemporaryDirectory() as folder:
        experiment, cache = written(Student(address, every), Path(folder), batch, time)
        named = {"size": size, "top": TOP}
        if "disk" in asked:
            yield {"kind": "disk", **named, "rows": cache.header.rows, "tokens": cache.tokens, "bytes": cache.bytes,
                   "bytes_a_token": cache.bytes / cache.tokens, "stored": cache.header.dtype}  # fmt: skip
        if {"memory", "seconds"} & set(asked):
            steps = both(experiment, address, cache.folder, batch)
            shape = list(np.shape(steps["cached"].batch["input_ids"]))
            named |= {"batch": shape, "student": steps["cached"].model.parameters}
        if "memory" in asked:
            for way, step in steps.items():
                compiled, _, _ = step.compiled()
                yield {"kind": "memory", "way": way, **named, **memory(compiled), "compiled_for": jax.default_backend()}
        if "seconds" in asked:
            yield {"kind": "seconds", **named, **taken(steps, options.repeats)}


def written(student: Student, folder: Path, batch: int, time: int) -> tuple[Experiment, Cache]:
    """What trains the student, and the cache of its teacher."""
    texts = data.unlabelled("news", "train").column("text")[:ROWS]
    file = folder / "editorials.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    experiment = Experiment(
        name="cached-teacher", model=student, data=Written(str(file), held_out=0.0, length=time, too_long="truncate")
    )
    return experiment, cache_teacher(experiment, student.address, folder / "cache", top=TOP, batch_size=batch)


def both(experiment: Experiment, address: str, cache: Path, batch: int) -> dict[str, Step]:
    """The step with the teacher in it and the step with its cache, on the same rows."""
    student = experiment.model.build(jax.random.key(0))
    (task,) = dataclasses.replace(experiment.data, teacher=str(cache)).build(student, Feed(batch_size=batch, seed=0))
    given = next(iter(task.train))
    teacher = models.load(address)
    plain = {name: value for name, value in given.items() if name not in (IDS, VALUES)}
    live = distillation.logits(teacher.apply, teacher.params, temperature=1.0)
    return {
        "live": _step("live", student, live, plain),
        "cached": _step("cached", student, distillation.cached_logits(), given),
    }


def _step(name: str, student: Model, method: Method, batch: Mapping[str, Any]) -> Step:
    tuned = optimizer(optax.adamw, learning_rate=1e-5, weight_decay=0.0)
    return Step(name, None, student, make_step(supervised(student.apply), tuned, method), dict(batch))


def taken(steps: Mapping[str, Step], repeats: int) -> dict[str, Any]:
    """Seconds of a step with the teacher over those of one with its cache, in turns, and what both say first."""
    runners, said = {}, {}
    for way, step in steps.items():
        state = step.program.init(step.model.params, jax.random.key(1))  # compiled, the teacher would be a constant
        run = jit_step(step.program.step)
        state, metrics = run(state, step.batch)
        said[way] = float(next(value for name, value in metrics.items() if name.startswith("distillation.")))
        runners[way] = Runner(run, state, jax.device_put(step.batch))
    pairs = np.array([[runners[way].advance() for way in ("live", "cached")] for _ in range(repeats)])
    ratios = pairs[:, 0] / pairs[:, 1]
    return {
        "divergence": said,
        "seconds": {"live": spread(pairs[:, 0]), "cached": spread(pairs[:, 1])},
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
    }
