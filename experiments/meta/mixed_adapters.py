"""Adapters of three sentiment domains mixed for the fourth, from 32 of its sentences and without a gradient.

The adapters are those of `experiments.ensemble.merged_domains`: a LoRA on the upper two layers of MiniLM with a head,
trained on one domain of people's ratings. Each domain in turn is the new one, and `ft_jax.meta.lorahub` mixes the other
three by the loss on 32 of its labelled sentences. Beside the mixture, on the domain's test sentences: the mean of the
three updates, the one of the three that is best on the 32 sentences, no adapter and head at all, a LoRA and head
trained on the 32 sentences, and the domain's own adapter, which saw all of its training sentences.

``python -m experiments.meta.mixed_adapters --out docs/results/mixed_adapters.jsonl`` measures and records,
``python docs/meta_tables.py`` puts what is recorded into docs/meta.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import data, models, transfer
from ft_jax.core import jit_step, make_step, mean_cross_entropy, optimizer, supervised, warmup_then_decay
from ft_jax.data.sentiment import DOMAINS
from ft_jax.ensemble import merging
from ft_jax.meta import lorahub

from ..ensemble.merged_domains import BATCH, LENGTH, RANK, UPPER, held_out, options_of, tokens, trained
from ..study import Claim, tell

FEW, LOOKS = 32, 60
MIXTURE, MEAN, SINGLE = "LoraHub's mixture", "mean of the three updates", "best of the three on the sentences"
ZERO, OWN_FEW, OWN = "no adapter", f"LoRA trained on the {FEW} sentences", "the domain's own adapter"

Scores = dict[str, dict[str, float]]
"""Way to domain to accuracy."""


def from_few(model: Any, texts: Any, seed: int, steps: int = 40) -> Any:
    """The parameters with a LoRA and head trained on a few sentences, as the domains' adapters were."""
    method = transfer.lora(rank=RANK, alpha=2.0 * RANK, targets=UPPER, also=("*/head/*",))
    tuned = optimizer(optax.adamw, schedule=warmup_then_decay(steps), max_norm=1.0, learning_rate=2e-3)
    program = make_step(supervised(model.apply), tuned, method)
    state, step = program.init(model.params, jax.random.key(seed)), jit_step(program.step)
    source = data.batches(texts, BATCH, seed=seed, length=LENGTH, padding=model.pad_token)
    for _ in range(steps):
        state, _ = step(state, next(source))
    return program.parameters(state)["model"]


def measured(seed: int, runs: Path, most: int, domains: Sequence[str] = tuple(DOMAINS)) -> tuple[Scores, dict]:
    """Accuracy of every way on every domain's test sentences, and by domain the mixture's weights."""
    folders = {domain: trained(domain, seed, runs)[1] for domain in domains}
    model = trained(domains[0], seed, runs)[0]
    adapters = {domain: models.load_adapter(folder, model)[1] for domain, folder in folders.items()}
    rows: Scores = {way: {} for way in (MIXTURE, MEAN, SINGLE, ZERO, OWN_FEW, OWN)}
    weights = {}
    for domain in domains:
        others = {name: params for name, params in adapters.items() if name != domain}
        few = data.sample(tokens(model, data.load(f"sentiment:{domain}", "train")), FEW, seed)
        (batch,) = data.evaluation_batches(few, FEW, length=(LENGTH,), padding=model.pad_token)

        def loss(params, batch=batch):
            return mean_cross_entropy(model.apply(params, batch, None), batch)

        hub = lorahub(loss, others, budget=LOOKS, seed=seed)
        weights[domain] = hub.weights
        ways = {
            MIXTURE: hub.params,
            MEAN: _mean(model, [folders[name] for name in others], runs / f"mean-without-{domain}-seed-{seed}"),
            SINGLE: min(others.values(), key=lambda params: float(loss(params))),
            ZERO: hub.at(dict.fromkeys(others, 0.0)),
            OWN_FEW: from_few(model, few, seed),
            OWN: adapters[domain],
        }
        sentences = held_out(model, domain, most)
        for way, params in ways.items():
            rows[way][domain] = _right(model, params, sentences)
    return rows, weights


def _mean(model: Any, folders: Sequence[Path], out: Path) -> Any:
    if not out.exists():
        merging.merge_adapters(merging.uniform(), folders, out, rank=RANK * len(folders))
    return models.load_adapter(out, model)[1]


def _right(model: Any, params: Any, batches: Sequence[Mapping[str, Any]]) -> float:
    said = np.concatenate([np.asarray(model.apply(params, dict(batch), None).logits) for batch in batches])
    labels, weights = (np.concatenate([batch[name] for batch in batches]) for name in ("labels", "weights"))
    return float(np.average(np.argmax(said, axis=-1) == labels, weights=weights))


def claims(rows: Sequence[Scores]) -> list[Claim]:
    """That a mixture found from a few sentences is worth the search, against the mean, one adapter and training."""
    score = {way: float(np.mean([list(one[way].values()) for one in rows])) for way in rows[0]}
    return [
        Claim(
            f"the mixture {score[MIXTURE]:.3f} against {score[other]:.3f} of {called}, over {len(rows[0][MIXTURE])} "
            f"domains: better by {score[MIXTURE] - score[other]:.3f}, at least 0 was claimed",
            score[MIXTURE] >= score[other],
        )
        for other, called in ((MEAN, "the " + MEAN), (SINGLE, "the " + SINGLE), (OWN_FEW, "a " + OWN_FEW))
    ]


def lines(rows: Sequence[Scores], weights: Sequence[Mapping], most: int) -> list[dict[str, Any]]:
    """What is recorded: a line a way with every domain's accuracies by seed, the weights by domain, the claims."""
    told = [
        {"way": way, "accuracy": {domain: [one[way][domain] for one in rows] for domain in rows[0][way]}, "most": most}
        for way in rows[0]
    ]
    found = [
        {"weights_for": domain, "weights": [{name: round(x, 3) for name, x in one[domain].items()} for one in weights]}
        for domain in weights[0]
    ]
    return [*told, *found, *(dataclasses.asdict(claim) for claim in claims(rows))]


def main() -> None:
    """Measures, prints and records; exits non-zero where a claim is missed."""
    options = options_of(__doc__, 200)
    rows, weights = zip(*(measured(seed, options.runs, options.most) for seed in range(options.seeds)), strict=True)
    tell(lines(rows, weights, options.most), options.out)
    raise SystemExit(not all(claim.met for claim in claims(rows)))


if __name__ == "__main__":
    main()
