"""LoRA members of MiniLM in one program against the same runs one after another.

``python -m benchmarks.members --members 8`` checks first that both give the same losses, then prints one JSON line
with the median seconds of one step of all members and the ratio, pair by pair.
"""

import argparse

import jax
import numpy as np
import optax

from ft_jax import models, transfer
from ft_jax.assets import MINILM
from ft_jax.core import jit_step, make_step, optimizer, supervised
from ft_jax.core.members import map_members

from .timing import line, seconds


def batch(examples: int, time: int, vocabulary: int) -> dict:
    """Random tokens with two classes."""
    keys = jax.random.split(jax.random.key(1))
    return {
        "input_ids": jax.random.randint(keys[0], (examples, time), 0, vocabulary),
        "attention_mask": np.ones((examples, time), np.int32),
        "labels": jax.random.randint(keys[1], (examples,), 0, 2),
    }


def measure(members: int, examples: int, time: int, repeats: int) -> dict:
    """Losses of both ways, and the seconds of one step of all members."""
    model = models.with_classifier(models.load(MINILM), 2, jax.random.key(0))
    method = transfer.lora(rank=8, also=("*/head/*",))
    program = make_step(supervised(model.apply), optimizer(optax.adamw, learning_rate=1e-3), method)
    lifted = map_members(program, members)
    data = batch(examples, time, 30000)

    together = jax.jit(lifted.init)(model.params, jax.random.key(2))
    apart = [jax.jit(program.init)(model.params, key) for key in jax.random.split(jax.random.key(2), members)]
    step, lifted_step = jit_step(program.step), jit_step(lifted.step)

    def run_together():
        nonlocal together
        together, metrics = lifted_step(together, data)
        return metrics["loss"]

    def run_apart():
        losses = []
        for index, state in enumerate(apart):
            apart[index], metrics = step(state, data)
            losses.append(metrics["loss"])
        return losses

    difference = 0.0
    for _ in range(3):
        difference = max(difference, float(np.abs(np.asarray(run_together()) - np.asarray(run_apart())).max()))
    pairs = [(seconds(run_together, 1, 0)[0], seconds(run_apart, 1, 0)[0]) for _ in range(repeats)]
    one, many = np.asarray(pairs).T
    return {
        "members": members,
        "batch": [examples, time],
        "largest_loss_difference": difference,
        "together_seconds": float(np.median(one)),
        "apart_seconds": float(np.median(many)),
        "ratio_median": float(np.median(many / one)),
        "ratio_range": [float((many / one).min()), float((many / one).max())],
    }


def main() -> None:
    """Prints the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--time", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(line("members", **measure(options.members, options.examples, options.time, options.repeats)))


if __name__ == "__main__":
    main()
