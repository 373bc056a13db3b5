"""Steps beside their parts, taken in turn: preferences, distillation, and a composition of four methods."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .case import Options
from .programs import Step, build
from .timing import Runner, seconds

ADDED = ("distillation", "ewc", "uncertainty")
"""What the step called ``composed`` has over LoRA."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a step: how many times what its parts take it takes.

    A preference step is held against two plain ones, for its two sides, and the reference's two forward passes;
    distillation, beside the task's loss, without it, and in full fine-tuning, against the step without it; the composed
    one against the plain one and what each method adds to it.
    """
    name, shape = options.shape("small" if jax.default_backend() == "cpu" else "llama-1b")
    steps = {
        method: build(method, shape, rank=options.rank, forward=options.forward)
        for method in ("lora", "full", *ADDED, "soft", "full+distillation", "composed", "dpo")
    }
    runners = {method: Runner(*step.start()) for method, step in steps.items()}
    forward = loss_alone(steps["lora"])
    takes: dict[str, Any] = {method: runner.advance for method, runner in runners.items()}
    takes["forward"] = lambda: float(seconds(forward, 1, 0)[0])
    for take in takes.values():
        for _ in range(3):
            take()
    rounds = [{what: take() for what, take in takes.items()} for _ in range(options.repeats)]
    taken = {what: np.asarray([found[what] for found in rounds]) for what in takes}
    plain = taken["lora"]
    parts = {
        "distillation": (plain, "the plain step"),
        "soft": (plain, "the plain step"),
        "full+distillation": (taken["full"], "the full step"),
        "dpo": (2 * (plain + taken["forward"]), "two plain steps and two forward passes"),
        "composed": (plain + sum(taken[method] - plain for method in ADDED), "its parts added up"),
    }
    for method, (parted, beside) in parts.items():
        ratios = taken[method] / parted
        yield {
            "size": name,
            "method": method,
            "beside": beside,
            "batch": [shape.batch, shape.time],
            "dtype": shape.dtype,
            "rank": options.rank,
            "forward": options.forward,
            "ratio": float(np.median(ratios)),
            "ratio_range": [float(ratios.min()), float(ratios.max())],
            "seconds": {what: float(np.median(times)) for what, times in taken.items()},
        }


def loss_alone(step: Step):
    """The loss, compiled without its gradient and without predictions."""
    _, state, batch = step.start()
    run = jax.jit(lambda state, batch: step.program.evaluate(state, batch)[0])
    return lambda: run(state, batch)
