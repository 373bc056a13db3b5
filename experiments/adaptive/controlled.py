"""Controllers on scikit-learn's digits, each beside the run that does without.

- *Which metric a plateau watches*: one digit against the others, one example in 30 of it. The rate is halved when the
  accuracy does not rise, or when the area under the ROC curve does not.
- *Spikes*: a few batches come a thousand times too bright; `ft_jax.adaptive.spike_guard` skips their steps.
- *Where batches come from*: five sources of two digits each, the first with most examples. Batches are drawn by size,
  evenly, or by `ft_jax.adaptive.data_mixing`.
- *Learned by heart*: of 300 digits three in ten have a label drawn anew. `ft_jax.adaptive.recovery` goes back to where
  the validation loss was lowest, and halves the rate.

``python -m experiments.adaptive.controlled --out docs/results/adaptive.jsonl`` measures and records, ``python
docs/adaptive_tables.py`` puts what is recorded into docs/adaptive.md. ``--studies by_heart`` measures that one alone
and keeps what is recorded of the others.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

from ft_jax import adaptive, models
from ft_jax.core import compose, make_step, optimizer, supervised

from ..pictures import Part, pictures
from ..study import Claim, write_lines

BATCH, EVERY, WIDTHS = 32, 10, (64,)

Curves = dict[str, list[list[float]]]
"""By variant and seed, a number by evaluation."""


def network(classes: int, seed: int | None) -> Any:
    """A perceptron; without a seed its outline."""
    return models.mlp(models.MLPConfig((8, 8, 1), WIDTHS, classes), None if seed is None else jax.random.key(seed))


def batches(part: Part, steps: int, seed: int) -> dict[str, jax.Array]:
    """Batches ``[steps, BATCH, ...]`` of examples drawn anew."""
    rows = np.random.default_rng(seed).integers(0, len(part[1]), (steps, BATCH))
    return {"images": jnp.asarray(part[0][rows]), "labels": jnp.asarray(part[1][rows])}


def whole(part: Part) -> dict[str, jax.Array]:
    """A split as one batch."""
    return {"images": jnp.asarray(part[0]), "labels": jnp.asarray(part[1])}


def trained(program, state, stream, evaluations: Callable[[Any], Mapping[str, float]], reads: str) -> list[float]:
    """A number of `evaluations` after every `EVERY` steps; what they say goes to the program's controllers."""
    learn = jax.jit(lambda state, some: jax.lax.scan(lambda one, x: (program.step(one, x)[0], None), state, some)[0])
    seen = []
    for first in range(0, len(stream["labels"]), EVERY):
        state = learn(state, jax.tree.map(lambda x, first=first: x[first : first + EVERY], stream))
        metrics = evaluations(state)
        if program.after_eval:
            state = program.after_eval(state, {name: jnp.float32(value) for name, value in metrics.items()})
        seen.append(metrics[reads])
    return seen


def rare(split: str) -> Part:
    """Eights (1) against the others (0), of which one example in 30 is an eight."""
    images, labels = pictures("digits", split)
    labels = (labels == 8).astype(np.int32)
    eights, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    kept = np.sort(np.concatenate([eights[: len(others) // 29] if split == "train" else eights, others]))
    return images[kept], labels[kept]


def watched(seeds: Sequence[int], steps: int = 600) -> Curves:
    """The area under the ROC curve on test digits, where a plateau watches validation accuracy and where it."""
    train, validation, test = rare("train"), rare("validation"), rare("test")
    found: Curves = {}
    for metric in ("accuracy", "roc_auc"):
        rule = adaptive.plateau(metric, "max", factor=0.5, patience=2)
        program = make_step(supervised(network(2, None).apply), optimizer(optax.sgd, learning_rate=0.05), rule)
        says = jax.jit(lambda state, batch, program=program: program.evaluate(state, batch).predictions)

        def evaluations(state, says=says):
            logits = np.asarray(says(state, whole(validation)))
            held = np.asarray(says(state, whole(test)))
            return {
                "accuracy": float(np.mean(logits.argmax(-1) == validation[1])),
                "roc_auc": float(roc_auc_score(validation[1], logits[:, 1] - logits[:, 0])),
                "test": float(roc_auc_score(test[1], held[:, 1] - held[:, 0])),
            }

        found[f"the plateau watches {metric}"] = [
            trained(
                program,
                program.init(network(2, seed).params, jax.random.key(seed)),
                batches(train, steps, seed),
                evaluations,
                "test",
            )
            for seed in seeds
        ]
    return found


def spiked(seeds: Sequence[int], steps: int = 300) -> Curves:
    """Test accuracy where five batches are a thousand times too bright, with the guard and without."""
    train, test = pictures("digits", "train"), pictures("digits", "test")
    found: Curves = {}
    for name, rule in {
        "no guard": compose(),
        "skipped": compose(adaptive.spike_guard()),
        "clipped": compose(adaptive.spike_guard(action="clip")),
    }.items():
        program = make_step(supervised(network(10, None).apply), optimizer(optax.adam, learning_rate=3e-3), rule)
        right = jax.jit(
            lambda state, program=program: jnp.mean(
                jnp.argmax(program.evaluate(state, whole(test)).predictions, axis=-1) == test[1]
            )
        )
        found[name] = []
        for seed in seeds:
            stream = batches(train, steps, seed)
            at = np.random.default_rng(seed).choice(np.arange(50, steps - 10), 5, replace=False)
            stream["images"] = stream["images"].at[at].multiply(1000.0)
            state = program.init(network(10, seed).params, jax.random.key(seed))
            evaluations = lambda state, right=right: {"accuracy": float(right(state))}  # noqa: E731
            found[name].append(trained(program, state, stream, evaluations, "accuracy"))
    return found


def mixed(seeds: Sequence[int], steps: int = 300, sizes: Sequence[float] = (1.0, 0.3, 0.15, 0.08, 0.04)) -> Curves:
    """The mean over five sources' test accuracies, by how batches are drawn."""
    images, labels = pictures("digits", "train")
    own = [np.flatnonzero(labels // 2 == source) for source in range(len(sizes))]
    own = [rows[: max(4, int(len(rows) * size))] for rows, size in zip(own, sizes, strict=True)]
    table = jnp.asarray(np.stack([np.resize(rows, max(map(len, own))) for rows in own]))
    counts, test = jnp.array([len(rows) for rows in own]), pictures("digits", "test")
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    pairs = jax.nn.one_hot(test[1] // 2, len(sizes))
    apply, tuned = network(10, None).apply, optimizer(optax.adam, learning_rate=1e-3)
    fixed = {"by size": counts / counts.sum(), "evenly": jnp.full(len(sizes), 1 / len(sizes)), "data_mixing": None}
    found: Curves = {}
    for name, shares in fixed.items():
        rule = compose(adaptive.data_mixing(apply, len(sizes))) if shares is None else compose()
        program = make_step(supervised(apply), tuned, rule)

        @jax.jit
        def some(state, keys, program=program, shares=shares):
            def one(state, key):
                chances = state.memory["adaptive.data_mixing"]["chances"] if shares is None else shares
                pick, place = jax.random.split(key)
                source = jax.random.choice(pick, len(sizes), p=chances)
                rows = table[source, jax.random.randint(place, (BATCH,), 0, counts[source])]
                told = {"source": jnp.full(BATCH, source), "chance": jnp.full(BATCH, chances[source])}
                batch = {"images": images[rows], "labels": labels[rows], **told}
                return program.step(state, batch)[0], None

            state, _ = jax.lax.scan(one, state, keys)
            right = jnp.argmax(program.evaluate(state, whole(test)).predictions, axis=-1) == test[1]
            return state, jnp.mean(right @ pairs / pairs.sum(0))

        found[name] = []
        for seed in seeds:
            state, seen = program.init(network(10, seed).params, jax.random.key(seed)), []
            for keys in jax.random.split(jax.random.key(seed), steps).reshape(-1, EVERY):
                state, accuracy = some(state, keys)
                seen.append(float(accuracy))
            found[name].append(seen)
    return found


def by_heart(seeds: Sequence[int], steps: int = 1000) -> Curves:
    """Test accuracy where three labels in ten are wrong, with a controller that goes back and without."""
    (images, labels), validation, test = (pictures("digits", split) for split in ("train", "validation", "test"))
    found: Curves = {}
    rule = adaptive.recovery("loss", factor=0.5, patience=3)
    for name, method in {"no controller": compose(), "recovery": compose(rule)}.items():
        program = make_step(supervised(network(10, None).apply), optimizer(optax.adam, learning_rate=3e-3), method)
        says = jax.jit(lambda state, batch, program=program: program.evaluate(state, batch).predictions)

        def evaluations(state, says=says):
            known, held = says(state, whole(validation)), says(state, whole(test))
            loss = optax.softmax_cross_entropy_with_integer_labels(known, jnp.asarray(validation[1])).mean()
            return {"loss": float(loss), "test": float(np.mean(np.asarray(held).argmax(-1) == test[1]))}

        found[name] = []
        for seed in seeds:
            random = np.random.default_rng(seed)
            rows = random.permutation(len(labels))[:300]
            wrong = random.random(300) < 0.3
            part = images[rows], np.where(wrong, random.integers(0, 10, 300), labels[rows]).astype(np.int32)
            state = program.init(network(10, seed).params, jax.random.key(seed))
            found[name].append(trained(program, state, batches(part, steps, seed), evaluations, "test"))
    return found


STUDIES: Mapping[str, Callable[[Sequence[int]], Curves]] = {
    "watched": watched,
    "spiked": spiked,
    "mixed": mixed,
    "by_heart": by_heart,
}
CLAIMS = {
    "watched": ("the plateau watches roc_auc", "the plateau watches accuracy", 0.01, "area under the ROC curve"),
    "spiked": ("skipped", "no guard", 0.05, "test accuracy"),
    "mixed": ("data_mixing", "by size", 0.01, "mean test accuracy of the sources"),
    "by_heart": ("recovery", "no controller", 0.02, "test accuracy"),
}
"""The variant that is claimed to end above another one, by how much, and in what."""


def claimed(study: str, found: Curves) -> Claim:
    """Whether a study's claim holds, with its numbers."""
    ours, theirs, margin, what = CLAIMS[study]
    ends = {name: float(np.mean([curve[-1] for curve in curves])) for name, curves in found.items()}
    gap = ends[ours] - ends[theirs]
    text = (
        f"{what} at the end, {ours}: {ends[ours]:.3f}, {theirs}: {ends[theirs]:.3f}, over {len(found[ours])} seeds: "
        f"better by {gap:.3f}, at least {margin:g} was claimed"
    )
    return Claim(text, gap >= margin)


def main() -> None:
    """Measures, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="measure these alone")
    options, told, met = parser.parse_args(), [], True
    if options.out is not None and options.out.exists():
        known = map(json.loads, options.out.read_text(encoding="utf-8").splitlines())
        told = [line for line in known if line["study"] not in options.studies]
    for study in options.studies:
        found = STUDIES[study](range(options.seeds))
        claim = claimed(study, found)
        met &= claim.met
        told += [{"study": study, "variant": name, "every": EVERY, "curves": curves} for name, curves in found.items()]
        told.append({"study": study, **dataclasses.asdict(claim)})
        print(json.dumps(told[-1], ensure_ascii=False), flush=True)
    if options.out is not None:
        write_lines(options.out, told)
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
