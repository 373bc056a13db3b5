"""Every adapter and choice of what learns, on one model and one task: ``python -m benchmarks.adapters``.

Of each method the catalogue has: what learns, the time and memory of a step against full fine-tuning's of the same
batch, the largest relative difference from peft where one is recorded, and the accuracy on tweets of a model that was
trained on movie reviews and adapted with 300 labels, over three seeds in one program. One JSON line a method; methods
that have a line are skipped, so it can be stopped and run again. The table is `page`.
"""

import argparse
import dataclasses
import importlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import catalogue, data
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised, warmup_then_decay
from ft_jax.core.members import map_members
from ft_jax.core.params import count
from ft_jax.training.composition import Parts, Use

from .timing import line

STEPS, BATCH, LENGTH, LABELS, HELD_OUT, SEEDS, PAIRS = 40, 16, 32, 300, 500, 3, 5
RESULTS, PARITY, PAGE = (
    Path("benchmarks/results/adapters.jsonl"),
    Path("benchmarks/results/parity.jsonl"),
    Path("docs/adapters.md"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """How a method is set up for the table.

    Attributes:
      rate: the learning rate.
      options: of its constructor.
      head: whether the head must be asked to learn beside it.
      inside: a method that it stands on, named after it.
    """

    rate: float = 2e-3
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: bool = True
    inside: Use | None = None


WHOLE = Row(rate=1e-4, head=False)
LORA = Use("transfer.lora", rank=8, alpha=16.0)
ROWS: dict[str, Row] = {
    "transfer.full": WHOLE,
    "transfer.head_only": Row(rate=1e-2, head=False),
    "transfer.lp_ft": dataclasses.replace(WHOLE, options={"steps": STEPS // 4, "probe_rate": 100.0}),
    "transfer.gradual_unfreezing": dataclasses.replace(WHOLE, options={"every": STEPS / 10}),
    "transfer.discriminative": dataclasses.replace(WHOLE, options={"ratio": 1.3}),
    "transfer.l2_sp": dataclasses.replace(WHOLE, options={"alpha": 0.1, "beta": 0.01}),
    "transfer.galore": dataclasses.replace(WHOLE, options={"rank": 32, "gap": 10.0, "scale": 1.0}),
    "transfer.bitfit": Row(head=False),
    "transfer.norm_tuning": Row(head=False),
    "transfer.lora": Row(options={"rank": 8, "alpha": 16.0}),
    "transfer.rslora": Row(options={"rank": 8}),
    "transfer.lora_plus": Row(rate=5e-4, options={"ratio": 8.0}, inside=LORA),
    "transfer.dora": Row(options={"rank": 8}),
    "transfer.pissa": Row(rate=5e-4, options={"rank": 8}),
    "transfer.olora": Row(rate=5e-4, options={"rank": 8}),
    "transfer.eva": Row(options={"rank": 8}),
    "transfer.loftq": Row(options={"rank": 8}),
    "transfer.quantize": Row(inside=LORA),
    "transfer.vera": Row(rate=1e-2, options={"rank": 64}),
    "transfer.loha": Row(options={"rank": 4}),
    "transfer.lokr": Row(options={"rank": 4}),
    "transfer.oft": Row(options={"block": 16}),
    "transfer.boft": Row(options={"block": 4, "factors": 2}),
    "transfer.hra": Row(options={"rank": 8}),
    "transfer.fourierft": Row(rate=1e-1, options={"frequencies": 1000}),
    "transfer.houlsby": Row(options={"size": 32}),
    "transfer.pfeiffer": Row(options={"size": 32}),
    "attention.ia3": Row(rate=1e-2),
    "attention.prefix_tuning": Row(rate=1e-2),
    "attention.p_tuning_v2": Row(rate=1e-2),
    "attention.prompt_tuning": Row(rate=1e-2),
    "attention.p_tuning": Row(),
    "attention.llama_adapter": Row(rate=1e-2),
    "attention.head_gates": Row(rate=1e-2),
    "attention.layer_gates": Row(rate=1e-2),
    "attention.token_gates": Row(rate=1e-2),
    "attention.attention_only": Row(rate=1e-4),
}
"""The methods of the table, in its order; those that the catalogue does not have are left out."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every method is measured on: a model trained on movies, each seed's labelled tweets, and held-out ones."""

    model: Any
    train: tuple[data.Dataset, ...]
    held_out: data.Dataset

    def batches(self, seed: int):
        """A seed's labelled tweets without end, in its own order."""
        return data.batches(self.train[seed], BATCH, seed=seed, length=LENGTH, padding=self.model.pad_token)


def prepare() -> Task:
    """The task; the movie model is trained at first use and kept in its run folder."""
    # They stand beside this package, which is ft_jax.benchmarks where it is installed.
    beside = f"{__package__.removesuffix('benchmarks')}experiments"
    trained, movies = (importlib.import_module(f"{beside}.{name}") for name in ("trained", "transfer.movies"))
    model = trained.Trained(movies.experiment).build(jax.random.key(0)).configure(dropout=0.0, attention_dropout=0.0)

    def tokens(examples):
        kept = examples.select("text", "labels")
        return data.tokenize(kept, model.tokenizer, length=LENGTH, too_long="truncate")

    train, *others = (data.load("sentiment:tweets", split) for split in ("train", "validation", "test"))
    labelled = tuple(tokens(train.take(np.arange(LABELS) + seed * LABELS)) for seed in range(SEEDS))
    return Task(model, labelled, data.concatenate([tokens(one) for one in others]).take(HELD_OUT))


def composition(name: str, task: Task):
    """The method of the row as a composition, outermost first."""
    row, parts = ROWS[name], Parts(task.model, next(task.batches(0)), STEPS, jax.random.key(1))
    own = Use(name, **row.options)
    if "batches" in own.signature().parameters:
        own = own.changed(batches=(parts.example,))
    uses = [own, row.inside, Use("transfer.head_only") if row.head else None]
    return compose(*(use.build(parts) for use in uses if use is not None))


def program_of(task: Task, methods, rate: float):
    """The program of one seed."""
    adamw = optimizer(optax.adamw, schedule=warmup_then_decay(STEPS), learning_rate=rate, weight_decay=0.0)
    return make_step(supervised(task.model.apply), adamw, methods)


def compiled_step(program, state, batch):
    """A step compiled for `state`, and the bytes that it needs: arguments and what it computes on the way."""

    def step(state, frozen, batch):
        state, metrics = program.step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics["loss"]

    compiled = jax.jit(step, donate_argnums=0).lower(state.replace(frozen=None), state.frozen, batch).compile()
    memory = compiled.memory_analysis()
    return compiled, int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def costs(task: Task, methods, rate: float) -> dict[str, Any]:
    """Learning parameters, and the time and memory of a step beside full fine-tuning's, measured pair by pair."""
    batch = jax.tree.map(np.asarray, next(task.batches(0)))
    sides, bytes_of, learning = {}, {}, {}
    for side, one in {"full": compose(), "own": methods}.items():
        program = program_of(task, one, rate)
        state = jax.jit(program.init)(task.model.params, jax.random.key(2))
        learning[side] = count(state.params)
        step, bytes_of[side] = compiled_step(program, state, batch)
        sides[side] = [step, state.replace(frozen=None), state.frozen]

    def seconds(side):
        step, state, frozen = sides[side]
        begin = time.perf_counter()
        state, loss = step(state, frozen, batch)
        jax.block_until_ready(loss)
        sides[side][1] = state
        return time.perf_counter() - begin

    seconds("full"), seconds("own")
    pairs = np.array([(seconds("own"), seconds("full")) for _ in range(PAIRS)])
    return {
        "trainable": learning["own"],
        "trainable_share": learning["own"] / learning["full"],
        "seconds": float(np.median(pairs[:, 0])),
        "time_ratio": float(np.median(pairs[:, 0] / pairs[:, 1])),
        "bytes": bytes_of["own"],
        "memory_ratio": bytes_of["own"] / bytes_of["full"],
    }


def scores(task: Task, methods, rate: float) -> dict[str, Any]:
    """Accuracy on held-out tweets before and after training, of every seed.

    The seeds are members of one program, each with its own batches.
    """
    alone = program_of(task, methods, rate)
    program = map_members(alone, SEEDS, own_batches=True)
    state = jax.jit(program.init)(task.model.params, jax.random.key(3))
    step = jit_step(program.step)
    evaluate = jax.jit(lambda state, batch: program.evaluate(state, batch)[1].argmax(-1))

    def accuracy():
        right = []
        for batch in data.evaluation_batches(task.held_out, 100, length=LENGTH, padding=task.model.pad_token):
            counted = batch["weights"] > 0
            right.append(np.asarray(evaluate(state, batch) == batch["labels"])[:, counted])
        return np.concatenate(right, axis=1).mean(axis=1)

    before, streams = accuracy(), [task.batches(seed) for seed in range(SEEDS)]
    for _ in range(STEPS):
        batch = jax.tree.map(lambda *rows: np.stack(rows), *(next(stream) for stream in streams))
        state, _ = step(state, batch)
    return {"accuracy_before": before.tolist(), "accuracy": accuracy().tolist()}


def measure(name: str, task: Task) -> dict[str, Any]:
    """One method's line; one that can't be built on this model has the reason in place of numbers."""
    begin = time.perf_counter()
    try:
        methods, rate = composition(name, task), ROWS[name].rate
        values = {**costs(task, methods, rate), **scores(task, methods, rate)}
    except (ValueError, KeyError, NotImplementedError) as error:
        return {"method": name, "refused": str(error)}
    return {
        "method": name,
        "rate": rate,
        **values,
        "wall_seconds": time.perf_counter() - begin,
        "load_average": os.getloadavg()[0],
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, none where there is none."""
    if not path.exists():
        return []
    return [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines() if one.strip()]


def page(lines: list[dict[str, Any]], parity: Mapping[str, float]) -> str:
    """The table as markdown, with each method's difference from peft where there is one."""
    rows = sorted((one for one in lines if "accuracy" in one), key=lambda one: list(ROWS).index(one["method"]))
    head = f"""# Adapters and what learns, side by side

Made by `python -m benchmarks.adapters` from `benchmarks/results/adapters.jsonl`: all-MiniLM-L6-v2, fully trained on
movie reviews, then adapted to tweets with {LABELS} labels in {STEPS} steps of {BATCH} texts of at most {LENGTH} tokens;
accuracy on {HELD_OUT} held-out tweets over {SEEDS} seeds, each with labels of its own. Time and memory (arguments and
temporaries of the compiled step) are against full fine-tuning of the same batch, the times measured in pairs in one
process. Parity is the largest difference from peft's recorded outputs and gradients, relative to their largest value
(`PYTHONPATH=tests python -m golden.peft_comparison`); without one, peft has no such method, or it differs from another
in nothing but its start or a number.

"""
    if not rows:
        return head + "Nothing has been measured yet.\n"
    before = np.mean(rows[0]["accuracy_before"])
    machine = f"{rows[0]['device']}, jax {rows[0]['jax']}"
    head += f"Measured on {machine}. The movie model as it is: {before:.3f}.\n\n"
    table = ["| method | learns | share | parity | time | memory | accuracy | seeds |", "| --- |" + " ---: |" * 7]
    for one in rows:
        found = np.asarray(one["accuracy"])
        cells = (
            f"`{one['method']}`",
            f"{one['trainable']:,}",
            f"{one['trainable_share']:.2%}",
            f"{parity[one['method']]:.0e}" if one["method"] in parity else "",
            f"{one['time_ratio']:.2f}",
            f"{one['memory_ratio']:.2f}",
            f"{found.mean():.3f}",
            f"{found.min():.3f} to {found.max():.3f}",
        )
        table.append(f"| {' | '.join(cells)} |")
    refused = [f"- `{one['method']}`: {one['refused']}" for one in lines if "refused" in one]
    tail = ["", "Not on this model:", "", *refused] if refused else []
    return head + "\n".join([*table, *tail]) + "\n"


def main() -> None:
    """Measures what has no line yet and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", help="full names; all of the table by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    for name in arguments.methods:
        if name not in ROWS:
            raise SystemExit(f"the table has no {name!r}; it has {', '.join(ROWS)}")
    done = {one["method"] for one in read(arguments.out)}
    wanted = [name for name in arguments.methods or ROWS if name in catalogue and name not in done]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    task = prepare() if wanted else None
    parity = {one["method"]: one["error"] for one in read(PARITY)}
    for name in wanted:
        text = line("adapters", **measure(name, task))
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)
        arguments.page.write_text(page(read(arguments.out), parity), encoding="utf-8")
        jax.clear_caches()
    arguments.page.write_text(page(read(arguments.out), parity), encoding="utf-8")


if __name__ == "__main__":
    main()
