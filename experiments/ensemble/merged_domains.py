"""Adapters of four sentiment domains merged into one: which rule keeps most of what the four know?

A LoRA on the upper two layers of MiniLM, with a head, learns each domain of people's ratings alone (films, products,
editorials, tweets), all from one start. `ft_jax.ensemble.merging.merge_adapters` makes one adapter of the four by each
rule of `WAYS`, which answers on held-out sentences of all. Beside them: each adapter on its own domain and on all four,
and the mean of the four predictions, which costs four passes.

``python -m experiments.ensemble.merged_domains --out docs/results/merged_domains.jsonl`` measures and records,
``python docs/ensemble_tables.py`` puts what is recorded into docs/ensembles.md.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import data, models, transfer
from ft_jax.assets import MINILM
from ft_jax.core import jit_step, make_step, optimizer, supervised, warmup_then_decay
from ft_jax.data import Dataset
from ft_jax.data.sentiment import DOMAINS
from ft_jax.ensemble import fusion, merging
from ft_jax.models import Model
from ft_jax.training.specs import Pretrained

from ..study import Claim, tell

LENGTH, BATCH, RANK = 24, 16, 8
UPPER = ("*layers/[45]/attention/*/kernel", "*layers/[45]/mlp/*/kernel")
"""The projections of the upper two of six layers: the others need no backward pass."""

WAYS: Mapping[str, tuple[merging.Rule, float]] = {
    "mean": (merging.uniform(), 1.0),
    "task arithmetic, λ = 1": (merging.task_arithmetic(), 1.0),
    "task arithmetic, λ = 0.4": (merging.task_arithmetic(), 0.4),
    "TIES, density 0.2": (merging.ties(density=0.2), 1.0),
    "TIES, density 0.5": (merging.ties(density=0.5), 1.0),
    "DARE, density 0.5, λ = 0.4": (merging.dare(density=0.5), 0.4),
    "DELLA, density 0.5, λ = 0.4": (merging.della(density=0.5), 0.4),
    "model stock": (merging.model_stock(), 1.0),
    "KnOTS, density 0.2": (merging.knots(density=0.2), 1.0),
    "TSV": (merging.tsv(), 1.0),
    "Iso-C": (merging.iso_c(), 1.0),
}
"""Rules by the name that the table gives them, and the weight of each adapter; none is tuned on these domains."""

ALONE, ALL, FUSED = "each on its own domain", "one of the four on all", "mean of the four predictions"

Scores = dict[str, dict[str, float]]
"""Way to domain to accuracy."""


def trained(domain: str, seed: int, runs: Path, steps: int = 40) -> tuple[Model, Path]:
    """``(the base with its head as it starts, the folder of a domain's adapter)``; a folder that is there is kept."""
    model = Pretrained(MINILM, classes=2).build(jax.random.key(seed))
    folder = runs / f"{domain}-seed-{seed}-{steps}"
    if folder.exists():
        return model, folder
    method = transfer.lora(rank=RANK, alpha=2.0 * RANK, targets=UPPER, also=("*/head/*",))
    tuned = optimizer(optax.adamw, schedule=warmup_then_decay(steps), max_norm=1.0, learning_rate=2e-3)
    program = make_step(supervised(model.apply), tuned, method)
    state, step = program.init(model.params, jax.random.key(seed)), jit_step(program.step)
    texts = tokens(model, data.load(f"sentiment:{domain}", "train"))
    for batch in itertools.islice(data.batches(texts, BATCH, seed=seed, length=LENGTH, padding=model.pad_token), steps):
        state, _ = step(state, batch)
    models.save_adapter(model, program.parameters(state)["model"], folder)
    return model, folder


def tokens(model: Model, found: Dataset) -> Dataset:
    """Sentences as the model reads them."""
    return data.tokenize(found.select("text", "labels"), model.tokenizer, length=LENGTH, too_long="truncate")


def held_out(model: Model, domain: str, most: int) -> list[Mapping[str, np.ndarray]]:
    """Batches of `most` of a domain's test sentences, each class with its share of the whole set."""
    found = tokens(model, data.load(f"sentiment:{domain}", "test"))
    found = data.sample(found, min(most, len(found)))
    return list(data.evaluation_batches(found, 50, length=(LENGTH,), padding=model.pad_token))


def answers(model: Model, adapters: Sequence[Any], batches: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """``[adapters, examples, classes]`` logits of adapters of one rank, over the base that they share."""
    shared, own = _apart(adapters)

    @jax.jit
    def of(own, batch):
        def one(own):
            return model.apply(_joined(shared, own), batch, None).logits

        return jax.vmap(one)(own)

    return np.concatenate([np.asarray(of(own, dict(batch))) for batch in batches], axis=1)


def _apart(adapters: Sequence[Any]) -> tuple[Any, Any]:
    """The leaves that are the same in all, and those that are not, stacked; None in each other's place."""
    same = jax.tree.map(lambda first, *others: all(first is x or np.array_equal(first, x) for x in others), *adapters)
    shared = jax.tree.map(lambda alike, leaf: leaf if alike else None, same, adapters[0])
    own = jax.tree.map(lambda alike, *leaves: None if alike else jnp.stack(leaves), same, *adapters)
    return shared, own


def _joined(shared: Any, own: Any) -> Any:
    return jax.tree.map(lambda a, b: b if a is None else a, shared, own, is_leaf=lambda x: x is None)


def measured(seed: int, runs: Path, most: int, domains: Sequence[str] = tuple(DOMAINS)) -> Scores:
    """Accuracy of every way on every domain's test sentences, `most` of each."""
    model, folders = None, []
    for domain in domains:
        model, folder = trained(domain, seed, runs)
        folders.append(folder)
    merged = [_merged(way, folders, runs, seed) for way in WAYS]
    alone, mixed = ([models.load_adapter(x, model)[1] for x in group] for group in (folders, merged))
    rows: Scores = {name: {} for name in (ALONE, ALL, FUSED, *WAYS)}
    for place, domain in enumerate(domains):
        batches = held_out(model, domain, most)
        labels, weights = (np.concatenate([batch[name] for batch in batches]) for name in ("labels", "weights"))

        def right(logits, labels=labels, weights=weights):
            return float(np.average(np.argmax(logits, axis=-1) == labels, weights=weights))

        said = answers(model, alone, batches)
        rows[ALONE][domain] = right(said[place])
        rows[ALL][domain] = float(np.mean([right(one) for one in said]))
        rows[FUSED][domain] = right(np.asarray(fusion.mean(said)))
        for way, one in zip(WAYS, answers(model, mixed, batches), strict=True):
            rows[way][domain] = right(one)
    return rows


def _merged(way: str, folders: Sequence[Path], runs: Path, seed: int) -> Path:
    """The folder of the adapters merged by a way, at the sum of the ranks, so that no rule loses by its rank."""
    rule, weight = WAYS[way]
    out = runs / f"merged-seed-{seed}" / str(list(WAYS).index(way))
    if not out.exists():
        merging.merge_adapters(rule, folders, out, rank=RANK * len(folders), weights=[weight] * len(folders))
    return out


def claims(rows: Sequence[Scores]) -> list[Claim]:
    """That a merge loses little against four adapters asked each in its place, and that a plain sum loses more."""
    score = {way: float(np.mean([list(one[way].values()) for one in rows])) for way in rows[0]}
    best = max(WAYS, key=score.__getitem__)
    mean, untuned, single = score["mean"], score["task arithmetic, λ = 1"], score[ALL]
    return [
        Claim(
            f"the mean of the adapters {mean:.3f} against {single:.3f} of one of the four, over all domains: better by "
            f"{mean - single:.3f}, at least 0.01 was claimed",
            mean - single >= 0.01,
        ),
        Claim(
            f"the mean {mean:.3f} against {untuned:.3f} of the adapters' sum: better by {mean - untuned:.3f}, at least "
            "0 was claimed",
            mean >= untuned,
        ),
        Claim(
            f"the best rule, {best}, {score[best]:.3f} against {score[ALONE]:.3f} of each domain's own adapter: worse "
            f"by {score[ALONE] - score[best]:.3f}, at most 0.03 was claimed",
            score[ALONE] - score[best] <= 0.03,
        ),
    ]


def lines(rows: Sequence[Scores], most: int) -> list[dict[str, Any]]:
    """What is recorded: a line a way, with every domain's accuracies by seed, and a line a claim."""
    told = [
        {"way": way, "accuracy": {domain: [one[way][domain] for one in rows] for domain in rows[0][way]}, "most": most}
        for way in rows[0]
    ]
    return [*told, *(dataclasses.asdict(claim) for claim in claims(rows))]


def options_of(about: str, most: int) -> argparse.Namespace:
    """What the words of a command say: seeds, test sentences of a domain, where adapters are, and a file to write.

    Args:
      about: the command's own text.
      most: test sentences by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=most, help="test sentences of a domain")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/ensemble/merged_domains"),
        help="where adapters are; those there are not made again",
    )
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    return parser.parse_args()


def main() -> None:
    """Measures, prints and records; exits non-zero where a claim is missed."""
    options = options_of(__doc__, 100)
    rows = [measured(seed, options.runs, options.most) for seed in range(options.seeds)]
    tell(lines(rows, options.most), options.out)
    raise SystemExit(not all(claim.met for claim in claims(rows)))


if __name__ == "__main__":
    main()
