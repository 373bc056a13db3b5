"""SmolLM2-135M without some of its layers learns to write again: from its teacher on data, and on what it writes (GKD).

The student starts as 27 of the 30 layers of SmolLM2-135M-Instruct, which makes its text worse; the teacher is the whole
model. Both ways draw the student to the teacher by the generalised Jensen-Shannon divergence for as many steps, on the
second halves of sentences of newspaper editorials: the sentences' own (``λ = 0``), or the student's own in half of the
steps (``λ = 0.5``; Agarwal et al. 2024, arXiv:2306.13649). ``data`` is the mean log-probability of the sentences' own
second halves under the student, ``own`` that of the student's likeliest continuation under the teacher.

``python -m experiments.distillation.corrected --out docs/results/corrected.jsonl`` trains both and records scores and
texts before and after, ``python docs/distillation_tables.py`` puts them into docs/distillation.md.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, models
from ft_jax.assets import SMOLLM2
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised, warmup_then_decay
from ft_jax.core.losses import token_log_probabilities
from ft_jax.data import Dataset
from ft_jax.distillation import jsd, on_policy
from ft_jax.models import Model

from ..study import Claim
from ._writing import likeliest, tell

LEFT_OUT = (10, 15, 20)
"""Layers of the teacher that the student has not."""

LENGTH, NEW = 48, 16
"""Tokens of a row, and of what the student writes at most."""

SHARES = {"teacher on data": 0.0, "teacher on data and on own text (GKD)": 0.5}
"""λ of each way."""


def halves(split: str, begin: int, most: int) -> list[tuple[str, str]]:
    """Sentences cut after half of their words, of ten to thirty words."""
    found = [text.split() for text in data.unlabelled("news", split).column("text")]
    chosen = [words for words in found if 10 <= len(words) <= 30][begin : begin + most]
    return [(" ".join(words[: len(words) // 2]), " " + " ".join(words[len(words) // 2 :])) for words in chosen]


def rows(model: Model, pairs: Sequence[tuple[str, str]]) -> Dataset:
    """Prompts and completions as rows of tokens."""
    prompts, completions = zip(*pairs, strict=True)
    told = Dataset({"prompt": list(prompts), "completion": list(completions)})
    return data.next_tokens(told, model.tokenizer, length=LENGTH, too_long="truncate")


def batches(model: Model, pairs: Sequence[tuple[str, str]], size: int, seed: int) -> Any:
    """Batches of one shape for training."""
    return data.batches(rows(model, pairs), size, seed=seed, length=LENGTH, padding=model.pad_token)


def likelihood(model: Model, params: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """The mean log-probability of a token of the second halves."""
    every = data.collate(list(rows(model, pairs)), LENGTH, model.pad_token)
    labels = np.asarray(every["labels"])

    @jax.jit
    def of(params, every):
        return token_log_probabilities(model.apply(params, every, None), every["labels"].clip(0))

    return float(np.average(np.asarray(of(params, every)), weights=labels >= 0))


def continuations(model: Model, params: Any, prompts: Sequence[str]) -> list[str]:
    """The likeliest continuation of each prompt."""
    return likeliest(model, params, [model.tokenizer(prompt)["input_ids"] for prompt in prompts], NEW)


def measured(teacher: Model, student: Model, params: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Both scores and the first two texts."""
    prompts = [prompt for prompt, _ in pairs]
    written = continuations(student, params, prompts)
    own = [(prompt, text) for prompt, text in zip(prompts, written, strict=True) if text.strip()]
    return {
        "data": likelihood(student, params, pairs),
        "own": likelihood(teacher, teacher.params, own) if own else float("nan"),
        "texts": [list(pair) for pair in zip(prompts[:2], written[:2], strict=True)],
    }


def trained(teacher: Model, student: Model, share: float, steps: int, size: int, seed: int = 0) -> Any:
    """The student's parameters after so many steps in full."""
    own = on_policy(
        student.apply, share=share, max_new_tokens=NEW, stop_tokens=student.stop_tokens, pad_token=student.pad_token
    )
    method = compose(own, jsd(teacher.apply, teacher.params, beta=0.5, hard_weight=None))
    tuned = optimizer(optax.adamw, schedule=warmup_then_decay(steps), max_norm=1.0, learning_rate=1e-4)
    program = make_step(supervised(student.apply), tuned, method)
    state, step = program.init(student.params, jax.random.key(seed)), jit_step(program.step)
    for batch in itertools.islice(batches(student, halves("train", 0, steps * size), size, seed), steps):
        state, _ = step(state, batch)
    return program.parameters(state)["model"]


def study(teacher: Model, left_out: Sequence[int], steps: int, size: int, asked: int) -> list[dict[str, Any]]:
    """A row for the teacher, one for the student as it starts, and one for each way."""
    kept = [number for number in range(teacher.config.layers) if number not in left_out]
    student, pairs = models.with_layers(teacher, kept), halves("test", 0, asked)
    told = [
        {"way": "the whole model", **measured(teacher, teacher, teacher.params, pairs)},
        {
            "way": f"{len(kept)} of its {teacher.config.layers} layers",
            **measured(teacher, student, student.params, pairs),
        },
    ]
    for name, share in SHARES.items():
        params = trained(teacher, student, share, steps, size)
        told.append({"way": name, **measured(teacher, student, params, pairs)})
    return told


def claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That both ways bring the text back, and that the second is better on the student's own text."""
    _, before, given, own = rows
    return [
        Claim(
            f"text that the student writes, from {given['way']}: {given['own']:.3f} nats a token by the teacher, "
            f"{before['own']:.3f} before: better by {given['own'] - before['own']:.3f}, at least 0.1 was claimed",
            given["own"] - before["own"] >= 0.1,
        ),
        Claim(
            f"{own['way']}: {own['own']:.3f} against {given['own']:.3f}: better by {own['own'] - given['own']:.3f}, "
            "at least 0 was claimed",
            own["own"] >= given["own"],
        ),
    ]


def main() -> None:
    """Trains, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--asked", type=int, default=24, help="held-out sentences")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    told = study(models.load(SMOLLM2), LEFT_OUT, options.steps, options.batch, options.asked)
    found = claims(told)
    about = {"steps": options.steps, "batch": options.batch, "asked": options.asked}
    tell([*({**about, **row} for row in told), *(dataclasses.asdict(claim) for claim in found)], options.out)
    raise SystemExit(not all(claim.met for claim in found))


if __name__ == "__main__":
    main()
