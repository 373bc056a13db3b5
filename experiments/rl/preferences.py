"""DPO, KTO, ORPO and SimPO on preferences made of people's ratings: the positive sentence is preferred to the negative.

A small decoder of words first learns the sentences of four domains (reviews, editorials, tweets), the domain as its
prompt. Then each method makes it prefer: pairs are of one domain and of nearly one length, so that length tells
nothing, and three seeds with an order of pairs of their own train in one program. ``python -m
experiments.rl.preferences`` prints one table and writes it as lines of JSON:

- ``accuracy``: of held-out pairs, the share whose positive sentence has the larger reward. The reward is the method's
  own: ``beta`` times the gain over the reference for DPO and KTO, ``beta`` times the mean log-probability for SimPO,
  and that mean for ORPO, whose loss is of odds.
- ``gain_accuracy``: the same by the gain over the reference for all, and ``mean_accuracy`` by the mean
  log-probability for all, which the reference has too.
- ``margin``: the mean difference of the method's own reward.
- ``kl``: of what the model writes, ``mean Σ log p - log p_reference`` in nats a text. ORPO and SimPO know no reference;
  it is the same one.
- ``words``: of what it writes; ``positive``: the share of it that naive Bayes, told ``judge`` of held-out sentences
  rightly, takes for positive.

About fifteen minutes on two CPU cores.
"""

import argparse
import collections
import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, models
from ft_jax.core import jit_step, make_step, optimizer, supervised
from ft_jax.core.losses import token_log_probabilities
from ft_jax.core.members import map_members
from ft_jax.models import DecoderConfig
from ft_jax.rl import dpo, kto, orpo, simpo

from ..study import write_lines

LENGTH, LEAST, SEEDS = 24, 6, 3
"""Words of a sentence with its stop, at most; occurrences of a word that is one of its own; seeds."""
PAD, UNKNOWN, STOP = 0, 1, 2
FIRST = 3 + len(data.DOMAINS)
"""The first word's number; before it stand the domains."""


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Sentences as numbers of words.

    Attributes:
      ids: ``[sentences, LENGTH]``, each with its stop, 0 after it.
      domains: the prompt's number of each.
      labels: 1 for positive.
    """

    ids: np.ndarray
    domains: np.ndarray
    labels: np.ndarray

    def rows(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Some as examples: the prompt and the sentence, whose every word is learned."""
        ids = np.concatenate([self.domains[which, None], self.ids[which]], axis=1).astype(np.int32)
        labels = np.where(ids[:, 1:] == PAD, -1, ids[:, 1:])
        real = (ids[:, :-1] != PAD).astype(np.int32)
        return {"input_ids": ids[:, :-1], "attention_mask": real, "labels": labels} | {
            "weights": (labels >= 0).astype(np.float32)
        }

    def pairs(self, seed: int) -> np.ndarray:
        """``[pairs, 2]`` places of a positive and a negative sentence of one domain and nearly one length."""
        generator, found = np.random.default_rng(seed), []
        long = (self.ids != PAD).sum(1)
        for domain in np.unique(self.domains):
            sides = [np.flatnonzero((self.domains == domain) & (self.labels == label)) for label in (1, 0)]
            count = min(map(len, sides))
            sides = [generator.permutation(side)[:count] for side in sides]
            found.append(np.stack([side[np.argsort(long[side], kind="stable")] for side in sides], axis=1))
        return generator.permutation(np.concatenate(found))


def words_of(text: str) -> list[str]:
    """A text's words and marks in small letters."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[.,!?]", text.lower())


@functools.cache
def sentences() -> tuple[dict[str, int], Sentences, Sentences]:
    """The words' numbers, and the sentences of training and test that are not too long."""
    splits = {
        split: [(words_of(text), at, label) for at, name in enumerate(data.DOMAINS)
                for found in [data.sentiment(name, split)]
                for text, label in zip(found.columns["text"], found.columns["labels"], strict=True)]
        for split in ("train", "test")
    }  # fmt: skip
    counts = collections.Counter(word for words, _, _ in splits["train"] for word in words)
    known = {word: FIRST + at for at, word in enumerate(sorted(w for w, n in counts.items() if n >= LEAST))}
    made = []
    for rows in splits.values():
        rows = [row for row in rows if 0 < len(row[0]) < LENGTH]
        ids = np.full((len(rows), LENGTH), PAD, np.int32)
        for at, (words, _, _) in enumerate(rows):
            ids[at, : len(words) + 1] = [*(known.get(word, UNKNOWN) for word in words), STOP]
        made.append(Sentences(ids, np.array([3 + row[1] for row in rows]), np.array([row[2] for row in rows])))
    return known, *made


def config(words: int) -> DecoderConfig:
    """A small decoder of so many words."""
    return DecoderConfig(
        vocabulary=FIRST + words, width=64, layers=2, heads=4, key_value_heads=4, head_width=16, mlp_width=192,
        positions=LENGTH + 1, tied=True,
    )  # fmt: skip


def taught(known, train: Sentences, steps: int):
    """The decoder after so many supervised steps: the reference, where every method begins."""
    model = models.decoder(config(len(known)), jax.random.key(0))
    model = dataclasses.replace(model, stop_tokens=(STOP,), pad_token=PAD)
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=2e-3))
    state, step = program.init(model.params, jax.random.key(1)), jit_step(program.step)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        state, _ = step(state, train.rows(generator.integers(len(train.ids), size=64)))
    return dataclasses.replace(model, params=state.params["model"])


def as_pairs(train: Sentences, pairs: np.ndarray) -> dict[str, Any]:
    """A batch for the methods of pairs."""
    return {"chosen": train.rows(pairs[:, 0]), "rejected": train.rows(pairs[:, 1])}


def as_judged(train: Sentences, pairs: np.ndarray) -> dict[str, Any]:
    """The same sentences for KTO, each by itself, beside the next one's sentence with its own prompt."""
    which = pairs.reshape(-1)
    own, other = train.rows(which), train.rows(np.roll(which, 1))
    other["input_ids"][:, 0] = own["input_ids"][:, 0]
    return {**own, "desirable": train.labels[which].astype(np.float32), "mismatched": other}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A method and what its reward is.

    Attributes:
      make: ``apply -> method``.
      beta: of the reward.
      gain: whether the reward is of the gain over the reference, else of the mean log-probability.
      batch: its batch of pairs.
    """

    make: Any
    beta: float
    gain: bool
    batch: Any = as_pairs


KINDS: Mapping[str, Kind] = {
    "DPO": Kind(lambda apply: dpo(beta=0.1), 0.1, True),
    "KTO": Kind(lambda apply: kto(apply, beta=0.1), 0.1, True, as_judged),
    "ORPO": Kind(lambda apply: orpo(), 1.0, False),
    "SimPO": Kind(lambda apply: simpo(), 2.0, False),
}
"""Each with the numbers that it has by default, all at one learning rate."""


@functools.partial(jax.jit, static_argnums=0)
def likelihoods(apply, params, rows):
    """``Σ log p`` of each row's words and how many there are."""
    found = token_log_probabilities(apply(params, rows, None), rows["labels"])
    return (rows["weights"] * found).sum(1), rows["weights"].sum(1)


class Judge:
    """Naive Bayes over words, told of positive and negative sentences."""

    def __init__(self, vocabulary: int, told: Sentences):
        counts = np.ones((2, vocabulary))
        for label in (0, 1):
            np.add.at(counts[label], told.ids[told.labels == label].reshape(-1), 1)
        counts[:, :FIRST] = 1  # no word of its own speaks
        self.odds = np.log(counts[1] / counts[1].sum()) - np.log(counts[0] / counts[0].sum())
        self.prior = np.log(told.labels.mean() / (1 - told.labels.mean()))

    def positive(self, ids: np.ndarray) -> np.ndarray:
        """Whether each text is positive."""
        return self.prior + np.where(ids >= FIRST, self.odds[ids], 0.0).sum(1) > 0


@dataclasses.dataclass(frozen=True)
class Study:
    """What is trained on and judged by.

    Attributes:
      reference: the decoder that was taught the sentences.
      train: sentences of training.
      held: the two sides of the held-out pairs, as rows.
      judge: of what is written.
      texts: written for each domain.
    """

    reference: Any
    train: Sentences
    held: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    judge: Judge
    texts: int = 64

    def row(self, params, kind: Kind | None, seed: int) -> tuple[dict[str, float], np.ndarray]:
        """The numbers of one model, and what it wrote."""
        apply, start = self.reference.apply, self.reference.params
        own, before = ([likelihoods(apply, one, side) for side in self.held] for one in (params, start))
        mean = [np.asarray(total / count) for total, count in own]
        gain = [np.asarray(now[0] - then[0]) for now, then in zip(own, before, strict=True)]
        found = {"mean_accuracy": preferred(*mean)}
        if kind is not None:
            reward = [kind.beta * side for side in (gain if kind.gain else mean)]
            found |= {"accuracy": preferred(*reward), "margin": float(np.mean(reward[0] - reward[1]))}
            found |= {"gain_accuracy": preferred(*gain)}
        prompts = np.arange(3, FIRST, dtype=np.int32)[:, None]
        key, asked = jax.random.key(1_000 + seed), {"temperature": 1.0, "samples": self.texts, "max_new_tokens": LENGTH}
        written = models.generate(self.reference, params, prompts, key=key, **asked)
        ids, lengths = np.asarray(written.tokens), np.asarray(written.lengths)
        ids = np.where(np.arange(LENGTH) < lengths[:, None], ids, PAD)
        domains = np.repeat(prompts[:, 0], self.texts)
        rows = Sentences(ids, domains, np.zeros(len(ids))).rows(np.arange(len(ids)))
        apart = likelihoods(apply, params, rows)[0] - likelihoods(apply, start, rows)[0]
        words = ((ids != PAD) & (ids != STOP)).sum(1)
        found |= {"kl": float(apart.mean()), "words": float(words.mean())}
        return found | {"positive": float(self.judge.positive(ids).mean())}, ids


def preferred(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """The share of pairs whose chosen side is larger; equal ones are half right."""
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def trained(study: Study, kind: Kind, steps: int, size: int, seeds: int) -> list[Any]:
    """Parameters for each seed after so many steps, all seeds in one program."""
    model = study.reference
    program = make_step(
        supervised(model.apply), optimizer(optax.adam, learning_rate=5e-4, max_norm=1.0), kind.make(model.apply)
    )
    many = map_members(program, seeds, own_batches=True)
    state, step = many.init(model.params, jax.random.key(0)), jit_step(many.step)
    orders = [study.train.pairs(seed) for seed in range(seeds)]
    for at in range(steps):
        which = np.arange(at * size, (at + 1) * size)
        batches = [kind.batch(study.train, order[which % len(order)]) for order in orders]
        state, _ = step(state, jax.tree.map(lambda *x: np.stack(x), *batches))
    return [jax.tree.map(lambda x, seed=seed: x[seed], state.params["model"]) for seed in range(seeds)]


def table(taught_steps: int, steps: int, size: int = 32, seeds: int = SEEDS, held: int = 1_000, kinds=KINDS):
    """The lines of the table, a list of one number a seed under each name; the reference's first.

    Args:
      taught_steps, steps: supervised steps, and those of each method.
      size: pairs of a batch.
      seeds: of each method.
      held: held-out pairs, at most.
      kinds: the methods.
    """
    known, train, test = sentences()
    pairs = test.pairs(0)[:held]
    judge = Judge(FIRST + len(known), train)
    study = Study(taught(known, train, taught_steps), train, (test.rows(pairs[:, 0]), test.rows(pairs[:, 1])), judge)
    signs = {number: word for word, number in known.items()} | {UNKNOWN: "…"}
    right = float(np.mean(judge.positive(test.ids) == test.labels))

    def line(name, kind, several):
        found = [study.row(params, kind, seed) for seed, params in enumerate(several)]
        texts = [" ".join(signs[one] for one in ids if one in signs) for ids in found[0][1][:: study.texts]]
        numbers = {what: [round(one[what], 4) for one, _ in found] for what in found[0][0]}
        return {"method": name, **numbers, "writes": dict(zip(data.DOMAINS, texts, strict=True))}

    yield {**line("reference", None, [study.reference.params]), "judge": round(right, 4), "pairs": len(pairs)}
    for name, kind in kinds.items():
        yield {**line(name, kind, trained(study, kind, steps, size, seeds)), "steps": steps, "size": size}


def main() -> None:
    """Prints the table's lines as they come, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/preferences.jsonl"))
    parser.add_argument("--taught", type=int, default=400, help="supervised steps before")
    parser.add_argument("--steps", type=int, default=100, help="steps of each method")
    arguments = parser.parse_args()
    lines = []
    for line in table(arguments.taught, arguments.steps):
        lines.append(line)
        print(json.dumps(line, ensure_ascii=False), flush=True)
    write_lines(arguments.out, lines)


if __name__ == "__main__":
    main()
