"""Sums of two digits by a verifiable reward: a small decoder is shown the format, then learns from its own answers.

A few supervised steps teach the form ``3+4=7.``, right for some sums and not for others; then GRPO's only teacher is
whether an answer is right, and RLOO's and PPO's beside it. Sums held out in both are asked before and after. ``python
-m experiments.rl.arithmetic --out FILE`` trains each method over three seeds, whose networks and supervised steps are
their own, and writes a line a method; with ``--smollm2`` SmolLM2 with LoRA is asked the same sums in words, on a GPU.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import models
from ft_jax.assets import SMOLLM2
from ft_jax.core import jit_step, make_step, optimizer, supervised
from ft_jax.models import DecoderConfig
from ft_jax.rl.online import matches_tokens
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use, own_data
from ft_jax.training.own_data.questions import mean_reward, rewarded
from ft_jax.training.specs import Pretrained

from ..study import by_seed, write_lines

SIGNS = "0123456789+=."
PAD, STOP = len(SIGNS), SIGNS.index(".")
MOST, HELD_OUT, ANSWER = 50, 400, 3
"""Summands below `MOST`, sums kept for evaluation, tokens of an answer with its stop."""

SMALL = DecoderConfig(
    vocabulary=PAD + 1, width=64, layers=2, heads=4, key_value_heads=4, head_width=16, mlp_width=256, positions=16,
    tied=False,
)  # fmt: skip


def said(text: str) -> list[int]:
    """A text as tokens."""
    return [SIGNS.index(sign) for sign in text]


def sums(held_out: bool) -> np.ndarray:
    """Pairs of summands ``[pairs, 2]``, the same every time."""
    pairs = np.stack(np.meshgrid(np.arange(MOST), np.arange(MOST)), axis=-1).reshape(-1, 2)
    order = np.random.default_rng(0).permutation(len(pairs))
    return pairs[order[:HELD_OUT] if held_out else order[HELD_OUT:]]


def questions(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """Prompts ``[pairs, 6]`` padded on the left, and the right answers with their stop, 0 after it."""
    ids = np.full((len(pairs), 6), PAD, np.int32)
    answers = np.zeros((len(pairs), ANSWER), np.int32)
    for row, (a, b) in enumerate(pairs):
        prompt, answer = said(f"{a}+{b}="), said(f"{a + b}.")
        ids[row, 6 - len(prompt) :], answers[row, : len(answer)] = prompt, answer
    return {"input_ids": ids, "attention_mask": (ids != PAD).astype(np.int32), "answer": answers}


def shown(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """The same with answers, as examples: ``labels`` are -1 on the prompt."""
    asked = questions(pairs)
    long = np.array([len(str(a + b)) + 1 for a, b in pairs])
    real = np.arange(ANSWER) < long[:, None]
    ids = np.concatenate([asked["input_ids"], np.where(real, asked["answer"], PAD)], axis=1)
    labels = np.where(np.arange(ids.shape[1]) >= 6, ids, -1)[:, 1:]
    return {"input_ids": ids[:, :-1], "labels": np.where(labels == PAD, -1, labels).astype(np.int32)} | {
        "attention_mask": (ids[:, :-1] != PAD).astype(np.int32)
    }


@dataclasses.dataclass(frozen=True)
class Shown:
    """A decoder that has seen so many supervised steps of examples, and knows the format better than the sums."""

    config: DecoderConfig = SMALL
    steps: int = 150

    def outline(self, key: jax.Array | None):
        """The untrained model."""
        return dataclasses.replace(models.decoder(self.config, key), stop_tokens=(STOP,), pad_token=PAD)

    def build(self, key: jax.Array | None):
        """The model after supervised fine-tuning."""
        model = self.outline(key)
        if key is None:
            return model
        program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=2e-3))
        state, step = program.init(model.params, key), jit_step(program.step)
        pairs, generator = sums(False), np.random.default_rng(1)
        for _ in range(self.steps):
            state, _ = step(state, shown(pairs[generator.integers(len(pairs), size=64)]))
        return dataclasses.replace(model, params=state.params["model"])


class Questions:
    """An endless source of prompts, whose place is a count."""

    def __init__(self, feed: Feed):
        self.feed, self.count, self.pairs = feed, 0, sums(False)

    def __next__(self):
        """The next prompts."""
        generator = np.random.default_rng((self.feed.seed, self.feed.process, self.count))
        self.count += 1
        return questions(self.pairs[generator.integers(len(self.pairs), size=self.feed.batch_size)])

    def get_state(self) -> int:
        """How many batches were given."""
        return self.count

    def set_state(self, state: int) -> None:
        """Goes on after so many."""
        self.count = int(state)


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums as prompts; the evaluation set are those that nothing was ever trained on."""

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        return (Task("sums", Questions(feed), {"held out": [questions(sums(True))]}, MOST**2 - HELD_OUT),)


def right(outputs, batch):
    """Whether each answer was right."""
    return batch["reward"] if "reward" in batch else jnp.zeros(outputs.hidden.shape[0])


def exact_match(predictions, batch):
    """The share of right answers."""
    return predictions.sum(), predictions.shape[0]


def learner(name: str, **options: Any) -> Experiment:
    """The experiment with one policy gradient."""
    settings = {"reward": matches_tokens, "max_new_tokens": ANSWER, "stop_tokens": (STOP,), "pad_token": PAD}
    return Experiment(
        name="rl/arithmetic",
        model=Shown(),
        data=Sums(),
        method=(Use(name, **{**settings, **options}),),
        optimizer=OptimizerSpec("adam", learning_rate=5e-4, max_norm=1.0),
        budget=Budget(steps=600, batch_size=32),
        loss=lambda model: supervised(model.apply),
        predict=right,
        metrics={"exact match": exact_match},
        evaluation=EvaluationSpec(every=150, metric="exact match", mode="max"),
        log_every=20,
    )


experiment = learner("rl.grpo", samples=8)
baselines = {
    "RLOO": dataclasses.replace(learner("rl.grpo", samples=8, variant="rloo"), name="rl/arithmetic-rloo"),
    "PPO": dataclasses.replace(learner("rl.ppo", samples=8, epochs=1, kl=0.0), name="rl/arithmetic-ppo"),
}
seeds = 3


@dataclasses.dataclass(frozen=True)
class Asked:
    """The same sums as questions to a model that can read."""

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task, whose evaluation set are the held-out sums."""
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{split}.jsonl" for split in ("train", "held-out")]
            for file, held_out in zip(files, (False, True), strict=True):
                rows = [asked(int(a), int(b)) for a, b in sums(held_out)]
                write_lines(file, rows)
            return own_data.Questions(str(files[0]), str(files[1]), length=64).build(model, feed)


def asked(a: int, b: int) -> dict[str, Any]:
    """A sum as a message with its answer."""
    return {"prompt": [{"role": "user", "content": f"What is {a} + {b}? Answer with the number."}], "answer": a + b}


smollm2 = Experiment(
    name="rl/arithmetic-smollm2",
    model=Pretrained(SMOLLM2, dtype="bfloat16"),
    data=Asked(),
    method=(
        Use("rl.grpo", reward=own_data.Verified("number"), samples=8, max_new_tokens=16),
        Use("transfer.lora", rank=16, alpha=32.0),
    ),
    optimizer=OptimizerSpec(learning_rate=1e-4, schedule="linear", warmup=0.05, max_norm=1.0),
    budget=Budget(steps=300, batch_size=32),
    predict=rewarded,
    metrics={"exact match": mean_reward},
    evaluation=EvaluationSpec(every=100, metric="exact match", mode="max"),
)


def measured(variants: Mapping[str, Experiment], count: int) -> Iterator[dict[str, Any]]:
    """A line for each method, see `experiments.study.by_seed`.

    Args:
      variants: experiments by name.
      count: seeds.
    """
    for method, variant in variants.items():
        about = {"method": method, "steps": variant.budget.steps, "prompts": variant.budget.batch_size}
        about |= {"samples": variant.method[0].options["samples"], "held_out": HELD_OUT}
        yield about | by_seed(variant, "exact match", count)


def main() -> None:
    """Prints the lines as they come, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/arithmetic.jsonl"))
    parser.add_argument("--smollm2", action="store_true", help="GRPO of SmolLM2-135M with LoRA instead: for a GPU")
    arguments = parser.parse_args()
    variants = {"GRPO, SmolLM2": smollm2} if arguments.smollm2 else {"GRPO": experiment, **baselines}
    lines = []
    for line in measured(variants, seeds):
        lines.append(line)
        print(json.dumps(line), flush=True)
        write_lines(arguments.out, lines)


if __name__ == "__main__":
    main()
