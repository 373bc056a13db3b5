"""A teacher with another tokenizer in the step, beside the passes of both models by themselves.

The student is SmolLM2-135M under a LoRA on every projection and the teacher Gemma 3 270M, on sentences of newspaper
editorials that both tokenizers write. A pass of the teacher is its log-probabilities of its own tokens, one of the
student the plain step; ``sorted`` compares all values, ``top`` the largest, ``hybrid`` and ``hybrid-top`` the common
tokens by themselves. All are taken in turns, and seconds are those that the process was busy.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, distillation, models
from ft_jax.assets import GEMMA3_270M, SMOLLM2
from ft_jax.core import Method, compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.losses import mean_cross_entropy
from ft_jax.data.alignment import GROUPS, TAUGHT
from ft_jax.models import Model
from ft_jax.training import Feed
from ft_jax.training.own_data import Written
from ft_jax.transfer import lora

from .case import Options
from .timing import Runner, spread

METHODS = ("sorted", "top", "hybrid", "hybrid-top")
PAIRS = {"smollm2-135m": (SMOLLM2, GEMMA3_270M)}
"""Addresses of the student and of the teacher by size."""

ROWS, TOP = 64, 256
"""Sentences, and values that are compared by themselves where not all are."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A row a way of comparing.

    Raises:
      ValueError: an unknown size or method.
    """
    asked = options.asked("another_tokenizer", METHODS, default=METHODS)
    size = options.size or "smollm2-135m"
    if size not in PAIRS:
        raise ValueError(f"there is no pair {size!r}; use one of {', '.join(PAIRS)}")
    student, teacher = map(models.load, PAIRS[size])
    batch = aligned(student, PAIRS[size][1], options.batch or 4, options.time or 48)
    part = batch[TAUGHT]
    named = {
        "size": size,
        "batch": list(batch["labels"].shape),
        "counted": float(np.mean(batch["labels"] >= 0)),
        "classes": [len(one.tokenizer) for one in (student, teacher)],
        "groups": int(sum(len(set(row[row > 0])) for row in batch[GROUPS])),
        "labels": [int((side["labels"] >= 0).sum()) for side in (batch, part)],
    }
    common = data.common_tokens(student.tokenizer, teacher.tokenizer)
    plain = {name: value for name, value in batch.items() if name not in (GROUPS, TAUGHT)}
    passes = (runner(student, compose(), plain, options.rank), teachers(teacher, batch[TAUGHT]))
    for way in asked:
        method = distillation.uld(
            teacher.apply,
            teacher.params,
            hard_weight=None,
            common=common if way.startswith("hybrid") else None,
            top=TOP if way.endswith("top") else None,
        )
        step = runner(student, method, batch, options.rank)
        yield {"way": way, **named, **taken(step, *passes, options.repeats)}


def aligned(student: Model, teacher: str, size: int, length: int) -> dict[str, Any]:
    """A batch of sentences as both tokenizers write them."""
    texts = data.unlabelled("news", "train").column("text")[:ROWS]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "editorials.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        spec = Written(str(file), held_out=0.0, length=length, teacher_tokenizer=teacher)
        (task,) = spec.build(student, Feed(batch_size=size, seed=0))
        return next(iter(task.train))


def teachers(teacher: Model, part: dict[str, Any]) -> Callable[[], float]:
    """A function that lets the teacher say its own tokens' log-probabilities: the seconds that it was busy."""
    params, part = jax.device_put((teacher.params, part))
    said = jax.jit(lambda params, part: mean_cross_entropy(teacher.apply(params, part, None), part))

    def run():
        begin = time.process_time()
        jax.block_until_ready(said(params, part))
        return time.process_time() - begin

    return run


def taken(step: Runner, student: Runner, teacher: Callable[[], float], repeats: int) -> dict[str, Any]:
    """Busy seconds of a step over those of both passes, and over the student's alone, in turns; the first compiles."""
    busy = []
    for _ in range(1 + repeats):
        student.advance()
        step.advance()
        busy.append([teacher(), student.cpu_seconds[-1], step.cpu_seconds[-1]])
    found = np.array(busy[1:]).T
    ratios, of_student = found[2] / (found[0] + found[1]), found[2] / found[1]
    return {
        "distance": float(step.loss),
        "busy_seconds": dict(zip(("teacher", "student", "step"), map(spread, found), strict=True)),
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "ratio_to_student": float(np.median(of_student)),
    }


def runner(student: Model, method: Method, batch: dict[str, Any], rank: int) -> Runner:
    """A step of the student under a LoRA."""
    tuned = optimizer(optax.adamw, learning_rate=1e-4, weight_decay=0.0)
    program = make_step(supervised(student.apply), tuned, compose(method, lora(rank=rank)))
    state = program.init(student.params, jax.random.key(1))  # compiled, the teacher would be a constant of it
    return Runner(jit_step(program.step), state, jax.device_put(batch))
