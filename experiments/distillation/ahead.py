"""GKD inside the step, and with the student's answers made beside it: does an answer that is an update late save time?

``inside`` is `ft_jax.distillation.on_policy`. ``beside`` makes the same answers by a source on the host
(`ft_jax.training.OnPolicy`), and ``ahead`` while the device computes the update before, by the parameters that were
there then. Answers, teacher and update are the device's work in all three, so one device has nothing to do at once.

``python -m experiments.distillation.ahead --out docs/results/on_policy_ahead.jsonl`` measures an update of a random
decoder of 4 layers and 256 numbers, its teacher alike, 8 prompts of 32 tokens and answers of 32; ``python
docs/distillation_tables.py`` puts it into docs/distillation.md.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.distillation.on_policy import CHANGED, answered
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OnPolicy, OptimizerSpec, Stream, Task, Use, fit

from ..study import tell

WAYS = ("inside", "beside", "ahead")
PROMPT, ANSWER, ROWS = 32, 32, 8


@dataclasses.dataclass(frozen=True)
class Random:
    """A decoder of random numbers.

    Attributes:
      seed: of them.
      width, layers: its shape.
    """

    seed: int = 0
    width: int = 256
    layers: int = 4

    def build(self, key: jax.Array) -> models.Model:
        """The model."""
        made = models.tiny_decoder(jax.random.key(self.seed), vocabulary=1024, width=self.width, layers=self.layers)
        return made.configure(positions=128)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Random prompts with room for an answer, which the student writes in the step, beside it or ahead of it.

    Attributes:
      way: of `WAYS`.
      prompt, answer: tokens of each.
    """

    way: str = "inside"
    prompt: int = PROMPT
    answer: int = ANSWER

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        random, time = np.random.default_rng(0), self.prompt + self.answer
        ids = random.integers(0, model.config.vocabulary, (64, time + 1)).astype(np.int32)
        labels = np.where(np.arange(time) < self.prompt - 1, -1, ids[:, 1:])
        rows = data.Dataset({"input_ids": ids[:, :-1], "labels": labels, "attention_mask": np.ones_like(labels)})
        source = data.batches(rows, feed.batch_size, seed=feed.seed)
        if self.way == "inside":
            return (Task("prompts", source, {}, 64),)
        like = next(data.batches(rows, feed.batch_size, seed=feed.seed))

        def act(params, batch, context):
            keys = context.keys_for("answers", batch)

            def answer(*prompt):
                how = {"max_new_tokens": self.answer, "temperature": 1.0, "key": keys}
                return models.generate(model.apply, params["model"], *prompt, **how)

            told = answered(batch, answer, model.pad_token)
            return {field: told[field] for field in CHANGED if field in told}

        def make(ask, given):
            return {**given, **{field: np.asarray(value) for field, value in ask(given).items()}}

        return (Task("prompts", OnPolicy(source, act, make, like=like, ahead=self.way == "ahead"), {}, 64),)


def experiment_of(way: str, model: Any, prompts: Prompts, steps: int) -> Experiment:
    """A run of GKD whose answers are made in a way."""
    teacher = dataclasses.replace(model, seed=1)
    inside = (Use("distillation.on_policy", share=1.0, max_new_tokens=prompts.answer),) if way == "inside" else ()
    return Experiment(
        name=f"distillation/ahead/{way}",
        model=model,
        data=dataclasses.replace(prompts, way=way),
        method=(*inside, Use("distillation.jsd", params=teacher, hard_weight=None), Use("transfer.full")),
        optimizer=OptimizerSpec("adam", learning_rate=1e-4),
        budget=Budget(steps=steps, batch_size=ROWS),
        evaluation=EvaluationSpec(metric="loss", mode="min"),
        log_every=1,
    )


def seconds(way: str, model: Any, prompts: Prompts, steps: int) -> list[float]:
    """Seconds of each update after the first few, from one to the next."""
    with tempfile.TemporaryDirectory() as folder:
        result = fit(experiment_of(way, model, prompts, steps), run=Path(folder) / "run", quiet=True)
        told = map(json.loads, (result.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rates = [line["examples_per_second"] for line in told if line.get("examples_per_second")]
    return [ROWS / rate for rate in rates[3:]]


def main() -> None:
    """Measures the three in turns, and prints and records the medians by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            taken[way].append(float(np.median(seconds(way, Random(), Prompts(), options.steps))))
    tell([{"way": way, "seconds": [round(one, 4) for one in found]} for way, found in taken.items()], options.out)


if __name__ == "__main__":
    main()
