"""What every method keeps, and what that costs, on three streams of tasks that come in turn.

Pairs of digits (split MNIST, ten outputs from the start), pixels in another order (permuted MNIST, 1,000 digits a task)
and sentences of four domains (films, products, editorials, tweets), of which a perceptron reads MiniLM's frozen mean
embedding. A method is scored by avalanche's average accuracy, forgetting and forward transfer
(`ft_jax.training.continual`), by what it remembers in MiB, by the median time of its step where it runs, all methods in
turn, and by that step's operations beside the plain one's.
Penalties' weights are the best of `STRENGTHS` at a seed of its own, on a held-out tenth of the training examples.

``python -m experiments.incremental.table --mnist mnist:FILE.npz --out docs/results/incremental.jsonl`` measures and
records, ``python docs/stream_tables.py`` puts what is recorded into docs/streams.md. ``--methods iCaRL`` measures that
one alone and keeps what is recorded of the others, ``--methods`` without a name nothing but the steps' times.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import incremental, models
from ft_jax.core import Composition, compose, make_step, optimizer, supervised
from ft_jax.core.state import Batch
from ft_jax.data.sentiment import DOMAINS
from ft_jax.training.continual import continual

from ..pictures import Part, pictures
from ..sentences import embedded
from ..study import Claim, best_of, write_lines

BATCH, WIDTHS, CAPACITY, CURVATURE = 32, (100, 100), 200, 8
"""Examples a step and drawn from a buffer, hidden layers, examples in a buffer, batches at a task's end."""

STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "EWC": (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
    "SI": (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
    "MAS": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
}
"""Weights of the penalties that are tried."""

TRIED = 100
"""The seed of the trials."""

NAIVE, JOINT, ICARL = "naive", "joint", "iCaRL"
ROUNDS, UNTIMED = 200, 20
"""Steps that are timed of every method, and how many go before them."""

SCORES = ("average", "forgetting", "forward_transfer")
ASKED = ("ER", "DER++", "EWC", "LwF")
"""Methods of which it is claimed that they forget less than naive training."""


@dataclasses.dataclass(frozen=True)
class Turns:
    """A stream of tasks.

    Attributes:
      train, test: of each task.
      classes: outputs of the network.
      steps: of each task.
    """

    train: Sequence[Part]
    test: Sequence[Part]
    classes: int
    steps: int


def pairs(address: str, seed: int) -> Turns:
    """Two digits after two others."""
    train, test = digits(address, "train"), digits(address, "test")
    parts = [[(x[y // 2 == pair], y[y // 2 == pair]) for pair in range(5)] for x, y in (train, test)]
    return Turns(*parts, 10, 150)


def permuted(address: str, seed: int) -> Turns:
    """Ten orders of the pixels, the first as it is; every task draws 1,000 digits."""
    (x, y), (tx, ty), random = digits(address, "train"), digits(address, "test"), np.random.default_rng(seed)
    orders = [np.arange(x.shape[1]), *(random.permutation(x.shape[1]) for _ in range(9))]
    rows = [random.permutation(len(x))[:1000] for _ in orders]
    train = [(x[some][:, order], y[some]) for order, some in zip(orders, rows, strict=True)]
    return Turns(train, [(tx[:, order], ty) for order in orders], 10, 100)


def digits(address: str, split: str) -> Part:
    """Pictures as rows of pixels."""
    images, labels = pictures(address, split)
    return images.reshape(len(images), -1), labels


def domains(folder: Path, most: int = 600) -> Callable[[str, int], Turns]:
    """The four domains' sentences as MiniLM's embeddings, which `folder` keeps; of each at most `most` to train on."""

    def build(address: str, seed: int) -> Turns:
        parts = {
            split: [embedded(domain, split, most, folder=folder) for domain in DOMAINS] for split in ("train", "test")
        }
        return Turns(parts["train"], parts["test"], 2, 100)

    return build


def held_out(turns: Turns) -> Turns:
    """The stream of a trial: of every task's training examples a tenth is asked, and learned from are the others."""
    of = [np.arange(len(y)) % 10 == 9 for _, y in turns.train]
    train, test = (
        [(x[rows == asked], y[rows == asked]) for (x, y), rows in zip(turns.train, of, strict=True)]
        for asked in (False, True)
    )
    return dataclasses.replace(turns, train=train, test=test)


def methods(turns: Turns) -> dict[str, Composition]:
    """What is compared, by name."""
    like = batch_of(turns.train[0], np.zeros(BATCH, int))
    kept, drawn, classes, tasks = CAPACITY, BATCH, turns.classes, len(turns.train)
    model = models.mlp(network(turns), jax.random.key(0))
    return {
        NAIVE: compose(),
        "EWC": compose(incremental.ewc()),
        "SI": compose(incremental.synaptic_intelligence()),
        "MAS": compose(incremental.mas()),
        "LwF": compose(incremental.lwf()),
        "ER": compose(incremental.replay(kept, drawn, like)),
        "ER-ACE": compose(incremental.er_ace(kept, drawn, like, classes)),
        "DER++": compose(incremental.der(kept, drawn, like, classes, alpha=0.5, beta=0.5)),
        "A-GEM": compose(incremental.agem(kept, drawn, like)),
        "GEM": compose(incremental.gem(tasks, kept // tasks, like, strength=0.5)),
        ICARL: compose(incremental.icarl(model.apply, model.params, like, kept, drawn)),
        JOINT: compose(),
    }


def network(turns: Turns) -> models.MLPConfig:
    """The perceptron of a stream."""
    return models.MLPConfig((turns.train[0][0].shape[1], 1, 1), WIDTHS, turns.classes)


def batch_of(part: Part, rows: np.ndarray) -> dict[str, jax.Array]:
    """Rows as the perceptron reads them, ``images [..., width, 1, 1]``."""
    x, y = part
    return {"images": jnp.asarray(x[rows][..., None, None]), "labels": jnp.asarray(y[rows])}


class Learner:
    """One method on streams of one shape: its compiled step is made once."""

    def __init__(self, name: str, turns: Turns):
        self.name, self.method = name, methods(turns)[name]
        self.config = network(turns)
        apply = models.mlp(self.config, None).apply
        self.program = program = make_step(supervised(apply), optimizer(optax.adam, learning_rate=1e-3), self.method)
        self.learn = jax.jit(
            lambda state, batches: jax.lax.scan(lambda one, x: (program.step(one, x)[0], None), state, batches)[0]
        )
        self.end = jax.jit(program.after_task) if program.after_task else lambda state, batches: state
        self.says = jax.jit(lambda state, batch: jnp.argmax(program.evaluate(state, batch).predictions, axis=-1))

    def start(self, seed: int, strength: float | None = None) -> Any:
        """The state before the first task."""
        state = self.program.init(models.mlp(self.config, jax.random.key(seed)).params, jax.random.key(seed))
        if strength is None:
            return state
        return state.with_hyper({f"{self.method.names[0]}.weight": strength})

    def matrix(self, turns: Turns, seed: int, strength: float | None = None) -> np.ndarray:
        """``[1 + tasks, tasks]`` test accuracies: before training, and after each task."""
        state, random = self.start(seed, strength), np.random.default_rng(seed)
        rows = [self._right(state, turns)]
        everything = tuple(np.concatenate(both) for both in zip(*turns.train, strict=True))
        for part in turns.train:
            own = everything if self.name == JOINT else part
            batches = batch_of(own, in_passes(random, len(own[1]), turns.steps))
            state = self.learn(state, batches)
            state = self.ended(state, own, batches)
            rows.append(self._right(state, turns))
        return np.array(rows)

    def ended(self, state: Any, part: Part, batches: Batch) -> Any:
        """The state after a task; iCaRL chooses among all its examples, others see the last batches."""
        if self.name == ICARL:
            return self.end(state, batch_of(part, np.arange(len(part[1]))[None]))
        return self.end(state, jax.tree.map(lambda x: x[-CURVATURE:], batches))

    def second(self, turns: Turns) -> tuple[Callable[[Any, Batch], Any], Any, Batch]:
        """The compiled step, the state after the first task and batches of the second ``[steps, BATCH, ...]``."""
        random = np.random.default_rng(0)
        first, then = (
            batch_of(part, in_passes(random, len(part[1]), turns.steps)) for part in (turns.train[0], turns.train[1])
        )
        state = self.ended(self.learn(self.start(0), first), turns.train[0], first)
        return jax.jit(self.program.step), state, then

    def _right(self, state, turns):
        return [
            float(np.mean(np.asarray(self.says(state, batch_of(p, np.arange(len(p[1]))))) == p[1])) for p in turns.test
        ]

    def cost(self, turns: Turns) -> tuple[float, float]:
        """MiB that it remembers, and the operations of a step."""
        state = self.start(0)
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves(state.memory)) / 2**20
        step = jax.jit(self.program.step).lower(state, batch_of(turns.train[0], np.zeros(BATCH, int))).compile()
        return kept, float(step.cost_analysis()["flops"])


def in_passes(random: np.random.Generator, examples: int, steps: int) -> np.ndarray:
    """The examples of each step ``[steps, BATCH]``, pass after pass in a new order."""
    order = [random.permutation(examples) for _ in range(steps * BATCH // examples + 1)]
    return np.concatenate(order)[: steps * BATCH].reshape(steps, BATCH)


def step_times(turns: Turns) -> dict[str, float]:
    """Of every method the median time of a step of the second task in milliseconds.

    One step of each method after the other, round after round, so that what else the machine does slows all alike.
    """
    running = {name: Learner(name, turns).second(turns) for name in methods(turns)}
    states, found = {name: state for name, (_, state, _) in running.items()}, {name: [] for name in running}
    for turn in range(UNTIMED + ROUNDS):
        for name, (step, _, batches) in running.items():
            batch = jax.block_until_ready(jax.tree.map(lambda x, turn=turn: x[turn % turns.steps], batches))
            begin = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], batch))
            found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: float(np.median(took[UNTIMED:])) for name, took in found.items()}


def measured(
    build: Callable[[str, int], Turns], address: str, seeds: Sequence[int], only: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Of every method, or some, the scores by seed, what it costs and which weight was taken."""
    trial, rows = build(address, TRIED), {}
    chosen = [name for name in methods(trial) if only is None or name in only]
    tried, plain = held_out(trial), Learner(NAIVE, trial).cost(trial)[1]
    streams = {seed: build(address, seed) for seed in seeds if chosen}
    for name in chosen:
        learner = Learner(name, trial)
        strength = best_of(
            STRENGTHS.get(name, ()), lambda one, on=learner: continual(on.matrix(tried, TRIED, one))["average"]
        )
        found = [continual(learner.matrix(streams[seed], seed, strength)) for seed in seeds]
        kept, operations = learner.cost(trial)
        rows[name] = {score: [one[score] for one in found] for score in SCORES}
        rows[name] |= {"mib": kept, "operations": operations / plain, "weight": strength}
    return rows


def claims(rows: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """That the methods of `ASKED` forget less than naive training, and that joint training bounds all."""
    mean = {name: {score: float(np.mean(row[score])) for score in SCORES} for name, row in rows.items()}
    told = []
    for name in ASKED:
        less = mean[NAIVE]["forgetting"] - mean[name]["forgetting"]
        text = (
            f"{name} forgets {mean[name]['forgetting']:.3f}, naive training {mean[NAIVE]['forgetting']:.3f}: less by "
            f"{less:.3f}, at least 0.005 was claimed"
        )
        told.append(Claim(text, less >= 0.005))
    best = max((name for name in rows if name != JOINT), key=lambda name: mean[name]["average"])
    gap = mean[JOINT]["average"] - mean[best]["average"]
    text = (
        f"joint training {mean[JOINT]['average']:.3f} against {mean[best]['average']:.3f} of {best}, the best in turn: "
        f"above by {gap:.3f}, at least 0 was claimed"
    )
    return [*told, Claim(text, gap >= 0)]


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist", help="the address of the digits")
    parser.add_argument("--streams", nargs="+", default=["domains", "pairs", "permuted"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", help="measure these alone; the others are as --out has them")
    parser.add_argument("--runs", type=Path, default=Path("runs/incremental/table"), help="where embeddings are kept")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    streams = {"domains": domains(options.runs), "pairs": pairs, "permuted": permuted}
    known = recorded(options.out)
    for stream in options.streams:
        rows = measured(streams[stream], options.mnist, range(options.seeds), options.methods)
        turns = streams[stream](options.mnist, TRIED)
        took = step_times(turns)
        old = {line["method"]: line for line in known.get(stream, ()) if "method" in line}
        whole = {name: {**old.get(name, {}), **rows.get(name, {}), "milliseconds": ms} for name, ms in took.items()}
        lacking = [name for name, row in whole.items() if "average" not in row]
        if lacking:
            raise SystemExit(f"{lacking[0]} is not recorded for {stream}; leave --methods out, or name it")
        lines = [{"stream": stream, **row, "method": name} for name, row in whole.items()]
        known[stream] = [*lines, *({"stream": stream, **dataclasses.asdict(claim)} for claim in claims(whole))]
        for line in known[stream]:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        if options.out is not None:
            write_lines(options.out, [line for name in streams for line in known.get(name, ())])


def recorded(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """The lines of a file by stream; none where there is no file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
        line = json.loads(text)
        found.setdefault(line["stream"], []).append(line)
    return found


if __name__ == "__main__":
    main()
