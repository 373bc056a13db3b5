"""SmolLM2-135M learns a new task from demonstrations: what does it still know of an old one?

The new task is to say of a film review whether it is positive or negative, in a sentence of a fixed form; the old one
is to answer which city is a country's capital. With the same LoRA, rate, steps and rows: plain fine-tuning learns the
demonstrations' tokens, and self-distillation (SDFT, Shenfeld et al. 2026, arXiv:2601.19897) has the model answer by
itself and draws it to what it would say if it were shown the demonstration. The paper finds that the second forgets
less; arXiv:2607.01763 finds the contrary for feedback in the place of demonstrations.

``python -m experiments.distillation.self_taught --out docs/results/self_taught.jsonl`` trains both and records scores
and texts before and after, ``python docs/distillation_tables.py`` puts them into docs/distillation.md.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import data, models
from ft_jax.assets import SMOLLM2
from ft_jax.core import Method, compose
from ft_jax.distillation import on_policy, privileged
from ft_jax.models import Model
from ft_jax.training import Feed
from ft_jax.training.own_data import Written

from ..study import Claim, tell, write_lines
from . import writing

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Ireland": "Dublin", "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen",
    "Finland": "Helsinki", "Hungary": "Budapest", "Cuba": "Havana", "Peru": "Lima", "Kenya": "Nairobi",
    "Thailand": "Bangkok", "Canada": "Ottawa", "Belgium": "Brussels",
}  # fmt: skip
ASKED = "What is the capital of {}?"

QUESTION = "Is this review of a film positive or negative? {}"
ANSWER = "The review is {}."
WORDS = ("negative", "positive")
SHOWN = "{prompt}\n\nThis is an example of an answer: {completion}\n\nNow answer in the same way."

LENGTH, NEW = 96, 12
"""Tokens of a row, and of an answer at most."""


def chat(text: str, role: str = "user") -> list[dict[str, str]]:
    """A message by itself."""
    return [{"role": role, "content": text}]


def reviews(split: str, most: int) -> list[tuple[str, int]]:
    """Short film reviews with their labels, as many of both."""
    found = data.load("sentiment:movies", split)
    short = [
        (text, int(label))
        for text, label in zip(found.column("text"), found.column("labels"), strict=True)
        if len(text) <= 120
    ]
    groups = [[one for one in short if one[1] == label][: most // 2] for label in (0, 1)]
    return [one for pair in zip(*groups, strict=True) for one in pair]


def demonstrations(folder: Path, most: int) -> Path:
    """A file of prompts and completions."""
    file = folder / "reviews.jsonl"
    rows = [
        {"prompt": chat(QUESTION.format(text)), "completion": chat(ANSWER.format(WORDS[label]), "assistant")}
        for text, label in reviews("train", most)
    ]
    write_lines(file, rows)
    return file


def answers(model: Model, params: Any, questions: Sequence[str]) -> list[str]:
    """What the model says, the likeliest token each time."""
    told = [
        model.tokenizer.apply_chat_template(chat(question), add_generation_prompt=True, return_dict=False)
        for question in questions
    ]
    return writing.texts(model, params, told, NEW)


def measured(model: Model, params: Any, asked: int) -> dict[str, Any]:
    """Shares of right answers in both tasks, and the first answers of each.

    A capital is right where it is named; a review's word where it stands in the answer and the other one does not.
    """
    countries = list(CAPITALS)
    old = answers(model, params, [ASKED.format(country) for country in countries])
    held_out = reviews("test", asked)
    new = answers(model, params, [QUESTION.format(text) for text, _ in held_out])

    def said(answer, label):
        low = answer.lower()
        return WORDS[label] in low and WORDS[1 - label] not in low

    examples = [(ASKED.format(countries[0]), old[0]), *((QUESTION.format(held_out[i][0]), new[i]) for i in (0, 1))]
    return {
        "new": float(np.mean([said(answer, label) for answer, (_, label) in zip(new, held_out, strict=True)])),
        "old": float(np.mean([CAPITALS[country] in answer for country, answer in zip(countries, old, strict=True)])),
        "texts": [list(pair) for pair in examples],
    }


def methods(model: Model) -> dict[str, Method]:
    """Both ways by name."""
    own = on_policy(
        model.apply, share=1.0, max_new_tokens=NEW, stop_tokens=model.stop_tokens, pad_token=model.pad_token
    )
    return {"fine-tuned": compose(), "SDFT": compose(own, privileged(model.apply))}


def study(model: Model, folder: Path, steps: int, batch: int, asked: int, seed: int = 0) -> list[dict[str, Any]]:
    """A row for the model as it is, and one for each way."""
    file = demonstrations(folder, steps * batch)
    told = [{"way": "as published", **measured(model, model.params, asked)}]
    for name, method in methods(model).items():
        written = Written(str(file), held_out=0.0, length=LENGTH, shown=SHOWN if name == "SDFT" else None)

        def rows(written=written):
            (task,) = written.build(model, Feed(batch_size=batch, seed=seed))
            return iter(task.train)

        told.append({"way": name, **measured(model, writing.trained(model, method, rows, steps, seed), asked)})
    return told


def claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That both learn the new task, and that SDFT keeps more of the old one."""
    before, plain, own = rows
    return [
        *(
            Claim(
                f"{one['way']}: {one['new']:.3f} of the reviews are right, {before['new']:.3f} before: better by "
                f"{one['new'] - before['new']:.3f}, at least 0.1 was claimed",
                one["new"] - before["new"] >= 0.1,
            )
            for one in (plain, own)
        ),
        Claim(
            f"SDFT knows {own['old']:.3f} of the capitals, plain fine-tuning {plain['old']:.3f}, {before['old']:.3f} "
            f"before: more by {own['old'] - plain['old']:.3f}, at least 0.05 was claimed",
            own["old"] - plain["old"] >= 0.05,
        ),
    ]


def main() -> None:
    """Trains, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--asked", type=int, default=48, help="held-out reviews")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = study(models.load(SMOLLM2), Path(folder), options.steps, options.batch, options.asked)
    found = claims(rows)
    about = {"steps": options.steps, "batch": options.batch, "asked": options.asked}
    tell([*({**about, **row} for row in rows), *(dataclasses.asdict(claim) for claim in found)], options.out)
    raise SystemExit(not all(claim.met for claim in found))


if __name__ == "__main__":
    main()
