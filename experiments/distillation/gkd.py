"""SmolLM2-135M without five of its layers learns to write as the whole one does: corrected on its own texts, or not.

A student of 25 layers, every second of the middle ten left out, is asked for sentences about everyday things; the whole
model is its teacher. With the same LoRA, rate, steps and prompts it learns the tokens of the teacher's answers
(supervised fine-tuning on them, sequence-level distillation), the teacher's distributions along the teacher's answers
(off-policy), or those along answers that it writes itself in a share λ of the steps (GKD, Agarwal et al. 2024,
arXiv:2306.13649): the generalised Jensen-Shannon divergence is the same in both. The paper finds that a student learns
more from answers of its own, as these are the texts that it will be in.

``python -m experiments.distillation.gkd --out docs/results/gkd.jsonl`` trains all and records how far each is from the
teacher, on the teacher's texts and on its own, and texts before and after; ``python docs/distillation_tables.py`` puts
them into docs/distillation.md.
"""

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import data, models, transfer
from ft_jax.assets import SMOLLM2
from ft_jax.core import (
    Program,
    compose,
    jit_step,
    make_step,
    merge,
    optimizer,
    supervised,
    warmup_then_decay,
)
from ft_jax.data import Dataset
from ft_jax.distillation import jsd, on_policy
from ft_jax.models import Model

from ..study import Claim, tell
from . import writing

THINGS = (
    "bread", "a lamp", "the moon", "horses", "a bridge", "winter", "a letter", "coffee", "an island", "trains",
    "a guitar", "rain", "the desert", "a bicycle", "bees", "chess", "a castle", "apples", "a teacher", "snow",
    "the city", "a violin", "dolphins", "a map", "spring", "a clock", "tea", "mountains", "a garden", "books",
    "a ship", "wolves", "the sun", "a window", "dancing", "a river", "cheese", "an elephant", "football", "a farmer",
    "clouds", "a museum", "the theatre", "a kitchen", "owls", "summer", "a painting", "salt",
)  # fmt: skip
HELD_OUT = (
    "the sea", "a cat", "music", "a forest", "breakfast", "stars", "a doctor", "a market", "the wind", "a road",
    "birds", "a school", "autumn", "a mirror", "fire", "friendship",
)  # fmt: skip
ASKED = "Write a short sentence about {}."

LEFT_OUT = (12, 14, 16, 18, 20)
NEW = 20
"""Tokens of an answer at most."""

LENGTH = 64
SHOWN = 3
"""Held-out prompts whose answers are recorded."""


def prompts(model: Model, things: Sequence[str]) -> list[list[int]]:
    """The tokens of a request for each thing, up to where the answer begins."""
    told = ([{"role": "user", "content": ASKED.format(thing)}] for thing in things)
    return [
        list(model.tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False)) for one in told
    ]


def rows(asked: Sequence[Sequence[int]], told: Sequence[Sequence[int]]) -> Dataset:
    """Prompts with their answers, of which the answers' tokens carry loss."""
    pairs = list(zip(asked, told, strict=True))
    return Dataset(
        {
            "input_ids": [np.array([*prompt, *answer][:-1], np.int32) for prompt, answer in pairs],
            "labels": [np.array([*[-1] * (len(prompt) - 1), *answer], np.int32) for prompt, answer in pairs],
        }
    )


def apart(forwards: Sequence[Any], params: Sequence[Any], given: Dataset, padding: int, size: int = 4) -> float:
    """Nats a token of ``KL(first || second)`` along texts, of two models by their forward functions and parameters."""
    batches = data.evaluation_batches(given, size, length=LENGTH, padding=padding)
    found = np.array([_divergence(tuple(forwards), tuple(params), batch) for batch in batches])
    return float(found[:, 0].sum() / found[:, 1].sum())


@functools.partial(jax.jit, static_argnums=0)
def _divergence(forwards, params, batch):
    """``(sum over the labels that count, their number)``."""
    p, q = (jax.nn.log_softmax(f(one, batch, None).logits) for f, one in zip(forwards, params, strict=True))
    counts = (batch["labels"] >= 0) & (batch["weights"] > 0)
    return jnp.sum(jnp.where(counts, jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0)), jnp.sum(counts)


@dataclasses.dataclass(frozen=True)
class Measure:
    """How far students are from a teacher on held-out prompts.

    Attributes:
      student: untrained.
      teacher: the whole model.
      asked: the prompts.
      theirs: these with the teacher's answers.
      key: of the students' answers, the same for all.
    """

    student: Model
    teacher: Model
    asked: list[list[int]]
    theirs: Dataset
    key: jax.Array

    def __call__(self, params: Any) -> dict[str, Any]:
        """Nats a token on the teacher's texts and on the student's own, and its likeliest answers to some prompts."""
        own = rows(self.asked, writing.answers(self.student, params, self.asked, NEW, self.key))
        both, padding = (self.student.apply, self.teacher.apply), self.student.pad_token
        return {
            "theirs": apart(both[::-1], (self.teacher.params, params), self.theirs, padding),
            "own": apart(both, (params, self.teacher.params), own, padding),
            "texts": self.texts(self.student, params),
        }

    def texts(self, model: Model, params: Any) -> list[list[str]]:
        """Pairs of a request and the likeliest answer."""
        said = writing.texts(model, params, self.asked[:SHOWN], NEW)
        return [[ASKED.format(thing), one] for thing, one in zip(HELD_OUT, said, strict=False)]


def programs(student: Model, teacher: Model, steps: int, beta: float) -> dict[str, Program]:
    """Supervised fine-tuning, and distillation whose share of own answers is a number of its state."""
    tuned = optimizer(optax.adamw, schedule=warmup_then_decay(steps), max_norm=1.0, learning_rate=5e-4)
    own = on_policy(student.apply, max_new_tokens=NEW, stop_tokens=student.stop_tokens, pad_token=student.pad_token)
    taught = compose(own, jsd(teacher.apply, teacher.params, beta=beta, hard_weight=None))
    ways = {"supervised": compose(), "taught": taught}
    return {
        name: make_step(supervised(student.apply), tuned, compose(way, transfer.lora(rank=8, alpha=16.0)))
        for name, way in ways.items()
    }


def study(
    teacher: Model, student: Model, steps: int, batch: int, share: float, beta: float, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for the teacher's texts, one for the student as it is, and one for each way."""
    key, measuring = jax.random.split(jax.random.key(seed))
    asked, held = prompts(teacher, THINGS), prompts(teacher, HELD_OUT)
    keys = jax.random.split(key, 2)
    train, theirs = (
        rows(some, writing.answers(teacher, teacher.params, some, NEW, one))
        for some, one in zip((asked, held), keys, strict=True)
    )
    measure = Measure(student, teacher, held, theirs, measuring)
    told = [
        {"way": "the teacher", "theirs": 0.0, "own": 0.0, "texts": measure.texts(teacher, teacher.params)},
        {"way": "before", **measure(student.params)},
    ]
    made = programs(student, teacher, steps, beta)
    compiled = {name: jit_step(program.step) for name, program in made.items()}
    shares = {"supervised": ("supervised", None), "off-policy": ("taught", 0.0), "GKD": ("taught", share)}
    for name, (kind, own) in shares.items():
        state = made[kind].init(student.params, jax.random.key(seed))
        if own is not None:
            state = state.with_hyper({"distillation.on_policy.share": own})
        source = data.batches(train, batch, seed=seed, length=LENGTH, padding=student.pad_token)
        for _ in range(steps):
            state, metrics = compiled[kind](state, next(source))
        told.append({"way": name, **measure(merge(made[kind].parameters(state)["model"]))})
        print(f"{name}: loss {float(metrics['loss']):.4f}", flush=True)
    return told


def claims(found: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That the student comes nearer by GKD, and on its own texts nearer than by the other two."""
    by = {one["way"]: one["own"] for one in found}
    return [
        Claim(
            f"along its own texts GKD's student is {by['GKD']:.3f} nats a token from the teacher, {by[other]:.3f} "
            f"{'before' if other == 'before' else f'{other}'}: nearer by {by[other] - by['GKD']:.3f}, at least {least} "
            "was claimed",
            by[other] - by["GKD"] >= least,
        )
        for other, least in (("before", 0.5), ("supervised", 0.05), ("off-policy", 0.05))
    ]


def main() -> None:
    """Trains, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="λ, of the steps in which the student writes")
    parser.add_argument("--beta", type=float, default=0.5, help="the teacher's share of the divergence's mixture")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    teacher = models.load(SMOLLM2)
    student = models.with_layers(teacher, [place for place in range(teacher.config.layers) if place not in LEFT_OUT])
    found = study(teacher, student, options.steps, options.batch, options.share, options.beta)
    told = claims(found)
    about = {name: getattr(options, name) for name in ("steps", "batch", "share", "beta")}
    tell([*({**about, **row} for row in found), *(dataclasses.asdict(claim) for claim in told)], options.out)
    raise SystemExit(not all(claim.met for claim in told))


if __name__ == "__main__":
    main()
