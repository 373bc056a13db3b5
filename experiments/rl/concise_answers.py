"""SmolLM2 learns to answer briefly from its own answers: of two that it sampled, the shorter one is preferred.

The pairs are made when the run starts, with the model's own generator and chat template: DPO on what the policy
itself says. Held-out prompts check that the preference is learned and not the pairs.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ft_jax import data, models
from ft_jax.assets import SMOLLM2
from ft_jax.core import Outputs
from ft_jax.rl import margins
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use
from ft_jax.training.specs import Pretrained, share

SUBJECTS = """the moon;rain;a bicycle;bread;the sea;a library;winter;a mountain;coffee;a river;music;a cat;the sun;
a bridge;chess;a garden;snow;a train;honey;the wind;a forest;tea;a clock;sleep;a lighthouse;salt;a mirror;rice;
the stars;a market;a violin;paper""".replace("\n", "").split(";")
QUESTIONS = ("In a few words, what is {}?", "Answer in a few words: what is {} good for?", "Say one thing about {}.")


@dataclasses.dataclass(frozen=True)
class OwnAnswers:
    """Pairs of answers that the model samples to the same question, the clearly shorter one chosen.

    Attributes:
      tokens: the most tokens of an answer.
      length: tokens of prompt and answer.
      held_out: questions kept for evaluation.
      temperature: of the sampling.
    """

    tokens: int = 20
    length: int = 72
    held_out: int = 16
    temperature: float = 1.0

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task; the evaluation set holds pairs of questions that training never shows."""
        pairs = self._pairs(model)
        tokens = data.preferences(pairs, model.tokenizer, length=self.length)
        train, held = tokens.take(slice(self.held_out, None)), tokens.take(self.held_out)
        shape = {"length": self.length, "padding": model.pad_token}
        source = data.batches(train, feed.batch_size, seed=feed.seed, **shape, **share(feed))
        evaluation = list(data.batches(held, feed.batch_size, epochs=1, shuffle=False, **shape))
        return (Task("answers", source, {"held out": evaluation}, len(train)),)

    def _pairs(self, model) -> data.Dataset:
        questions = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
        prompts = [[{"role": "user", "content": question}] for question in questions]
        texts = [
            model.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            for prompt in prompts
        ]
        encoded = [one.ids for one in data.encode(model.tokenizer, texts, special=False)]
        longest = max(map(len, encoded))
        ids = np.full((len(encoded), longest), model.pad_token, np.int32)
        real = np.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, longest - len(one) :], real[row, longest - len(one) :] = one, 1
        sampled = models.generate(
            model,
            model.params,
            ids,
            real,
            max_new_tokens=self.tokens,
            key=jax.random.key(0),
            temperature=self.temperature,
            samples=2,
        )
        answers = [
            model.tokenizer.decode(row[:length], skip_special_tokens=True)
            for row, length in zip(np.asarray(sampled.tokens), np.asarray(sampled.lengths), strict=True)
        ]
        both = [sorted(answers[2 * row : 2 * row + 2], key=len) for row in range(len(prompts))]
        clear = [row for row, (short, long) in enumerate(both) if short and len(long) >= 1.2 * len(short)]
        order = np.random.default_rng(0).permutation(clear)
        return data.Dataset(
            {
                "prompt": [prompts[row] for row in order],
                "chosen": [[{"role": "assistant", "content": both[row][0]}] for row in order],
                "rejected": [[{"role": "assistant", "content": both[row][1]}] for row in order],
            }
        )


def margin(outputs: Outputs, batch):
    """Reward of the chosen answer less that of the rejected one, in nats."""
    return margins(outputs)


def preferred(predictions, batch):
    """Share of pairs whose chosen answer has the larger reward."""
    return (predictions > 0).sum(), predictions.shape[0]


experiment = Experiment(
    name="rl/concise_answers",
    model=Pretrained(SMOLLM2),
    data=OwnAnswers(),
    method=(Use("rl.dpo", beta=0.1), Use("transfer.lora", rank=8, alpha=16.0, targets="attention")),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=24, batch_size=4),
    predict=margin,
    metrics={"preferred": preferred},
    evaluation=EvaluationSpec(metric="preferred", mode="max"),
    log_every=5,
    expect={"preferred": 0.65},
)
