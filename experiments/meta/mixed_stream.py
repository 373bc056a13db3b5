"""A stream of small tasks, sentiment and digits mixed: what does it cost not to know which network suits them?

A task is one of four domains of sentences, as the frozen features of MiniLM, with 32 labels, or five digits drawn anew,
with 50 labels. A candidate (a network of some width and depth, or only some of its parameters) learns a task from a
start in `STEPS` steps of Adam; its reward is the accuracy on test examples. `ft_jax.meta.choose` takes one candidate a
task and keeps its record from task to task. Its regret is what the best fixed candidate, chosen in hindsight, gets in
more; beside it stands the expected regret of a random choice.

Tasks are drawn independently, so without features of the task the rewards of a candidate are independent draws from 0
to 1, and UCB1's expected regret after n tasks is at most ``8 ln n Σ 1/Δ + (1 + π²/3) Σ Δ`` over the candidates that
are worse than the best by Δ (Auer, Cesa-Bianchi and Fischer 2002, theorem 1). That bound holds with room to spare, more
than always taking the worst candidate could cost; so what is claimed is tighter: at most `SHARE` of a random choice's.

``python -m experiments.meta.mixed_stream --out docs/results/mixed_stream.jsonl`` measures and records, ``python
docs/meta_tables.py`` draws the picture and the table of docs/meta.md.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import models
from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.data.sentiment import DOMAINS
from ft_jax.meta import choose
from ft_jax.meta.choosing import Candidate, Controller, Halving, Thompson, Ucb
from ft_jax.transfer import bitfit, head_only

from ..pictures import pictures
from ..sentences import embedded
from ..study import Claim, write_lines

TASKS, SEEDS, STEPS, RATE = 60, 5, 20, 3e-3
WIDTH, CLASSES, WAYS = 384, 10, 5
LABELLED, TESTED, SENTENCES = 50, 100, 200
SHARE = 0.5
"""Of a random choice's regret, at most this is claimed of a controller."""

SHAPES = {"narrow": (8,), "wide": (256,), "deep": (64, 64, 64, 64)}
FROZEN = {"head alone": head_only, "biases alone": bitfit}
"""What learns of the wide network, at a rate ten times as high."""

CONTROLLERS: Mapping[str, tuple[Controller, bool]] = {
    "UCB1": (Ucb(tunes=False), False),
    "UCB, exploration tuned": (Ucb(), False),
    "LinUCB, features of the task": (Ucb(), True),
    "Thompson": (Thompson(), False),
    "halving": (Halving(), False),
}
"""By name, and whether it sees features of the task."""

Sources = Sequence[tuple[np.ndarray, np.ndarray]]
"""``(inputs [examples, WIDTH], labels)`` of the digits and of every domain."""


def scaled(x: np.ndarray) -> np.ndarray:
    """Inputs with mean 0 and deviation 1 over all examples, filled up with zeros to `WIDTH`."""
    x = (x - x.mean(axis=0)) / x.std()
    return np.pad(x, ((0, 0), (0, WIDTH - x.shape[1]))).astype(np.float32)


@functools.cache
def sources() -> Sources:
    """The digits, and the features of `SENTENCES` sentences of each domain."""
    images, labels = pictures("digits")
    found = [(scaled(images.reshape(len(images), -1)), labels)]
    for domain in DOMAINS:
        x, labels = embedded(domain, "train", SENTENCES, length=24)
        found.append((scaled(x), labels))
    return found


def task(random: np.random.Generator, found: Sources) -> dict[str, Any]:
    """Digits or a domain with equal chance: ``{"train", "test"}``, examples to learn from and to be judged on."""
    if random.random() < 0.5:
        (x, labels), labelled = found[0], LABELLED
        rows = np.flatnonzero(np.isin(labels, random.choice(10, WAYS, replace=False)))
    else:
        x, labels = found[1 + random.integers(len(found) - 1)]
        rows, labelled = np.arange(len(labels)), 32
    drawn = random.choice(rows, LABELLED + TESTED, replace=False)
    whole = {
        "images": x[drawn].reshape(-1, 1, WIDTH, 1),
        "labels": labels[drawn],
        "weights": np.r_[np.arange(LABELLED) < labelled, np.ones(TESTED)].astype(np.float32),
    }
    return {"train": {k: v[:LABELLED] for k, v in whole.items()}, "test": {k: v[LABELLED:] for k, v in whole.items()}}


def candidates() -> dict[str, Candidate]:
    """Networks of several shapes, and parts of the first that learn."""
    made = {}
    for name, widths in SHAPES.items():
        model = models.mlp(models.MLPConfig((1, WIDTH, 1), widths, CLASSES), jax.random.key(0))
        made[name] = Candidate(compose(), supervised(model.apply), model.params)
    quick = {"optimizer.learning_rate": 10 * RATE}
    parts = {name: dataclasses.replace(made["wide"], method=of(), numbers=quick) for name, of in FROZEN.items()}
    return made | parts


@functools.cache
def follower(controller: Controller, features: bool, forced: bool = False) -> tuple[Callable, Any]:
    """``(what goes through tasks, the state at the start)``.

    The first is a compiled function of both, which gives who was chosen for each task and what it got, ``[tasks, 2]``;
    `forced`, what every candidate gets, ``[tasks, candidates]``.
    """
    given = candidates()
    first = next(iter(given.values()))
    method = choose(given, controller, features=features)
    program = make_step(first.loss, optimizer(optax.adam, learning_rate=RATE), method)
    start = program.init(first.params, jax.random.key(0))

    def lived(state, one):
        after = jax.lax.scan(lambda now, _: (program.step(now, one["train"])[0], None), state, length=STEPS)[0]
        said = program.evaluate(after, one["test"]).predictions
        return after, jnp.mean(jnp.argmax(said, axis=-1) == one["test"]["labels"])

    def by_choice(state, one):
        after, reward = lived(state, one)
        chosen = after.hyper["meta.choose"]["chosen"]
        after = program.after_eval(after, {"accuracy": reward})
        return program.after_task(after, jax.tree.map(lambda x: x[None], one["train"])), jnp.stack([chosen, reward])

    def each(state, one):
        take = lambda index: lived(state.with_hyper({"meta.choose.chosen": index}), one)[1]  # noqa: E731
        return state, jax.lax.map(take, jnp.arange(len(given), dtype=jnp.float32))

    return jax.jit(lambda state, tasks: jax.lax.scan(each if forced else by_choice, state, tasks)[1]), start


def measured(seed: int, count: int = TASKS, found: Sources | None = None) -> dict[str, Any]:
    """Of one stream: each candidate's rewards, and by controller the choices and rewards.

    Args:
      seed: of the stream.
      count: tasks.
      found: `sources` by default.
    """
    random, found = np.random.default_rng(seed), found or sources()
    drawn = [task(random, found) for _ in range(count)]
    tasks = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *drawn)

    def lived(*way):
        through, start = follower(*way)
        return np.asarray(through(start, tasks))

    told = {name: lived(*way) for name, way in CONTROLLERS.items()}
    return {"names": sorted(candidates()), "rewards": lived(Ucb(), False, True), **told}


def bound(means: Sequence[float], tasks: int) -> float:
    """UCB1's of theorem 1 for these mean rewards.

    Example:
      >>> round(bound([0.9, 0.4], 100), 1)
      75.8
    """
    gaps = [max(means) - mean for mean in means if mean < max(means)]
    return float(sum(8 * np.log(tasks) / gap + (1 + np.pi**2 / 3) * gap for gap in gaps))


def rows_of(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for all candidates' mean rewards, and one for each way with its regret after each task, by seed."""
    names, rewards = seeds[0]["names"], [one["rewards"] for one in seeds]
    best = [one.mean(axis=0).argmax() for one in rewards]
    fixed = [one[:, at] for one, at in zip(rewards, best, strict=True)]
    count = len(fixed[0])
    first = {
        "candidates": {name: [round(float(one[:, at].mean()), 4) for one in rewards] for at, name in enumerate(names)},
        "best": [names[at] for at in best],
        "tasks": count,
        "bound": [round(bound(one.mean(axis=0), count), 1) for one in rewards],
        "worst": [round(float((one.mean(axis=0).max() - one.mean(axis=0).min()) * count), 1) for one in rewards],
    }
    ways = {name: [one[name][:, 1] for one in seeds] for name in CONTROLLERS}
    ways |= {
        "a random choice": [one.mean(axis=1) for one in rewards],
        "the best of each task": [one.max(axis=1) for one in rewards],
    }
    curves = {
        name: [np.round(np.cumsum(top - own), 3).tolist() for top, own in zip(fixed, got, strict=True)]
        for name, got in ways.items()
    }
    return [first, *({"way": name, "regret": curve} for name, curve in curves.items())]


def claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That UCB1 stays under its bound, and every controller under a share of a random choice's regret."""
    first, ends = rows[0], {row["way"]: [curve[-1] for curve in row["regret"]] for row in rows[1:]}
    over, most = float(np.mean(ends["a random choice"])), max(ends["UCB1"])
    told = [
        Claim(
            f"UCB1's regret after {first['tasks']} tasks {most:.2f} at most, its bound {min(first['bound']):.0f}",
            all(regret <= limit for regret, limit in zip(ends["UCB1"], first["bound"], strict=True)),
        )
    ]
    for name in CONTROLLERS:
        mean = float(np.mean(ends[name]))
        text = (
            f"{name}: regret {mean:.2f} against {over:.2f} of a random choice over {len(ends[name])} streams of "
            f"{first['tasks']} tasks: {mean / over:.2f} of it, at most {SHARE} was claimed"
        )
        told.append(Claim(text, mean <= SHARE * over))
    return told


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--out", type=Path, default=Path("runs/mixed_stream.jsonl"))
    options = parser.parse_args()
    rows = rows_of([measured(seed, options.tasks) for seed in range(options.seeds)])
    told = claims(rows)
    for row in rows[1:]:
        print(row["way"], [curve[-1] for curve in row["regret"]])
    for claim in told:
        print(f"{'met   ' if claim.met else 'MISSED'} {claim.text}")
    write_lines(options.out, [*rows, *map(dataclasses.asdict, told)])


if __name__ == "__main__":
    main()
