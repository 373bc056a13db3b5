"""Adapters written for tasks that were never trained on, from a description of the task alone.

A task names five of the ten digits and asks whether an image shows one of them; its description is which five, ten
numbers of 0 and 1. Of the 252 tasks 30 are held out and some of the others trained on. The base is a perceptron of two
layers of 64 that has learned to tell the ten digits apart, under a new head of two classes. `transfer.hypernetwork`
learns to write a LoRA of rank 4 on both layers for each task of training, beside a head that all tasks share. For a
task that is held out there are no examples: its adapter is written from the description. Beside it: what the same
network writes for the mean description, one LoRA and head for all tasks of training, and a LoRA and head trained on the
held-out task's own images, all of them and 32.

``python -m experiments.meta.written_adapters --out docs/results/written_adapters.jsonl`` measures and records,
``python docs/meta_tables.py`` puts what is recorded into docs/meta.md.
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

from ft_jax import models
from ft_jax.core import Method, Program, compose, jit_step, make_step, optimizer, outputs_of, supervised
from ft_jax.transfer import hypernetwork, lora

from ..pictures import Part, pictures
from ..study import Claim, tell

TASKS = np.array([[digit in chosen for digit in range(10)] for chosen in itertools.combinations(range(10), 5)])
"""Which digits each task asks for, ``[252, 10]``."""
HELD_OUT, TRAINED = 30, (8, 32, 128)
"""Tasks that are held out, and how many of the others are trained on."""
WIDTHS, RANK, HIDDEN = (64, 64), 4, 64
STEPS, BATCH, RATE, FEW = 3000, 128, 2e-3, 32

WRITTEN, MEAN, SHARED = "written from the description", "written for the mean description", "one LoRA for all tasks"
OWN, OWN_FEW = "LoRA trained on the task", f"LoRA trained on {FEW} images of the task"
HEAD = ("*/head/*",)


def program_of(model: Any, method: Any) -> Program:
    """What trains everything here."""
    return make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=RATE, max_norm=1.0), method)


def base(train: Part, seed: int, steps: int) -> tuple[Any, Any]:
    """The network, and its parameters once it tells ten digits apart, under a new head of two classes."""
    shape = tuple(train[0].shape[1:])
    ten, two = (models.mlp(models.MLPConfig(shape, WIDTHS, classes), jax.random.key(seed)) for classes in (10, 2))
    program, random = program_of(ten, compose()), np.random.default_rng(seed)
    state, step = program.init(ten.params, jax.random.key(seed)), jit_step(program.step)
    for _ in range(steps):
        rows = random.integers(len(train[1]), size=BATCH)
        state, _ = step(state, {"images": train[0][rows], "labels": train[1][rows]})
    return two, {**program.parameters(state)["model"], "head": two.params["head"]}


def over_tasks(model: Any, params: Any, method: Method, tasks: np.ndarray, train: Part, seed: int, steps: int) -> Any:
    """The state of one method that learns all tasks: every image of a batch is of a task drawn for it."""
    program, random = program_of(model, method), np.random.default_rng(seed)
    state, step = program.init(params, jax.random.key(seed)), jit_step(program.step)
    for _ in range(steps):
        rows = random.integers(len(train[1]), size=BATCH)
        asked = tasks[random.integers(len(tasks), size=BATCH)]
        batch = {"images": train[0][rows], "labels": asked[np.arange(BATCH), train[1][rows]].astype(np.int32)}
        told = {"task_embedding": asked.astype(np.float32)} if method.forward is not None else {}
        state, _ = step(state, {**batch, **told})
    return state


def each_by_itself(model: Any, params: Any, tasks: np.ndarray, train: Part, seed: int, steps: int) -> Any:
    """States of a LoRA for each task, ``[tasks, ...]``, in one program that sees the same images."""
    program, random = program_of(model, PLAIN), np.random.default_rng(seed)
    states = jax.vmap(program.init, in_axes=(None, 0))(params, jax.random.split(jax.random.key(seed), len(tasks)))
    step = jax.jit(jax.vmap(program.step, in_axes=(0, {"images": None, "labels": 0})), donate_argnums=0)
    for _ in range(steps):
        rows = random.integers(len(train[1]), size=BATCH)
        labels = tasks[:, train[1][rows]].astype(np.int32)  # [tasks, batch]
        states, _ = step(states, {"images": train[0][rows], "labels": labels})
    return states


PLAIN = lora(rank=RANK, alpha=2.0 * RANK, also=HEAD)
WRITES = hypernetwork(10, rank=RANK, alpha=2.0 * RANK, hidden=HIDDEN, also=HEAD)


def measured(address: str, seed: int, trained: Sequence[int] = TRAINED, steps: int = STEPS) -> dict[str, list[float]]:
    """Mean accuracy on test images of the held-out tasks, by way; of those that learn other tasks, by their number."""
    train, test = pictures(address, "train"), pictures(address, "test")
    order = np.random.default_rng(seed).permutation(len(TASKS))
    held, others = TASKS[order[:HELD_OUT]], TASKS[order[HELD_OUT:]]
    model, params = base(train, seed, steps // 5)

    def right(method, state, described=None):
        """The mean over held-out tasks, answered by one state; with descriptions by the adapters it writes."""

        @jax.jit
        def said(state, fields):
            return jnp.argmax(outputs_of(state, method, model.apply, {"images": test[0], **fields}).logits, axis=-1)

        found = []
        for number, task in enumerate(held):
            fields = {}
            if described is not None:
                fields = {"task_embedding": np.tile(described[number], (len(test[1]), 1)).astype(np.float32)}
            found.append(np.mean((np.asarray(said(state, fields)) == 1) == task[test[1]]))
        return float(np.mean(found))

    told: dict[str, list[float]] = {WRITTEN: [], MEAN: [], SHARED: []}
    for count in trained:
        state = over_tasks(model, params, WRITES, others[:count], train, seed, steps)
        told[WRITTEN].append(right(WRITES, state, held))
        told[MEAN].append(right(WRITES, state, np.full(held.shape, 0.5)))
        told[SHARED].append(right(PLAIN, over_tasks(model, params, PLAIN, others[:count], train, seed, steps)))
    for way, part in ((OWN, train), (OWN_FEW, tuple(x[:FEW] for x in train))):
        states = each_by_itself(model, params, held, part, seed, steps // 10)

        def own(state):
            return jnp.argmax(outputs_of(state, PLAIN, model.apply, {"images": test[0]}).logits, axis=-1)

        said = np.asarray(jax.jit(jax.vmap(own))(states))
        told[way] = [float(np.mean((said == 1) == held[:, test[1]]))]
    return told


def rows_of(address: str, seeds: Sequence[Mapping[str, Sequence[float]]], trained=TRAINED) -> list[dict[str, Any]]:
    """A line for each way and number of tasks that it learned, with its accuracy by seed; 0 where it is the task."""
    return [
        {
            "data": address.partition(":")[0],
            "way": way,
            "tasks": trained[place] if way in (WRITTEN, MEAN, SHARED) else 0,
            "accuracy": [one[way][place] for one in seeds],
        }
        for way in seeds[0]
        for place in range(len(seeds[0][way]))
    ]


def claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """That a description is enough where many tasks were trained on, and little short of the task's own images."""
    mean = {(row["way"], row["tasks"]): float(np.mean(row["accuracy"])) for row in rows}
    most = max(tasks for _, tasks in mean)
    written, shared, own, few = mean[WRITTEN, most], mean[SHARED, most], mean[OWN, 0], mean[OWN_FEW, 0]
    return [
        Claim(
            f"an adapter written for a task never seen, after {most} tasks, {written:.3f} against {shared:.3f} of one "
            f"LoRA for all of them: better by {written - shared:.3f}, at least 0.2 was claimed",
            written - shared >= 0.2,
        ),
        Claim(
            f"it against {own:.3f} of a LoRA trained on all images of the task: worse by {own - written:.3f}, at most "
            "0.05 was claimed",
            own - written <= 0.05,
        ),
        Claim(
            f"without an image of the task it is better by {written - few:.3f} than a LoRA trained on {FEW} of them, "
            f"{few:.3f}; at least 0 was claimed",
            written >= few,
        ),
    ]


def main() -> None:
    """Measures, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist or mnist:FILE.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    rows = rows_of(options.data, [measured(options.data, seed, steps=options.steps) for seed in range(options.seeds)])
    told = claims(rows)
    tell([*({**row, "steps": options.steps} for row in rows), *map(dataclasses.asdict, told)], options.out)
    raise SystemExit(not all(claim.met for claim in told))


if __name__ == "__main__":
    main()
