"""Trials of one method in one program against the same trials one after another."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ft_jax.core import jit_step

from . import peer
from .case import Options
from .programs import build
from .timing import Runner, memory, spread


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row: seconds of a step of all trials, both ways, after their losses agreed.

    By default 16 LoRA trials of 1 example each on a GPU, and 4 of 8 on a CPU. One step of a batch as large as all
    trials' together says what sharing one program costs against one trial.
    """
    accelerated = jax.default_backend() != "cpu"
    name, shape = options.shape("llama-1b" if accelerated else "minilm")
    members = options.members or (16 if accelerated else 4)
    if options.batch is None:
        name, shape = Options(size=name, batch=1 if accelerated else 8, time=options.time or 512).shape(name)
        if not accelerated:
            name, shape = Options(size=name, batch=8, time=options.time or 32).shape(name)
    method = (options.methods or ("lora",))[0]
    one = build(method, shape, rank=options.rank, forward=options.forward)
    many = build(method, shape, rank=options.rank, forward=options.forward, members=members)
    together = Runner(*many.start())
    step, batch = jit_step(one.program.step), jax.device_put(one.batch)
    init = jax.jit(one.program.init)
    keys = jax.random.split(jax.random.key(1), members)
    apart = [Runner(step, init(one.model.params, key), batch) for key in keys]

    difference = 0.0
    for _ in range(3):
        together.advance()
        for runner in apart:
            runner.advance()
        losses = np.asarray([float(runner.loss) for runner in apart])
        difference = max(difference, float(np.abs(np.asarray(together.loss) - losses).max()))
    pairs = [(together.advance(), sum(runner.advance() for runner in apart)) for _ in range(options.repeats)]
    ours, serial = np.asarray(pairs).T
    row = {
        "size": name,
        "method": method,
        "members": members,
        "batch": [shape.batch, shape.time],
        "dtype": shape.dtype,
        "largest_loss_difference": difference,
        "together_seconds": spread(ours),
        "apart_seconds": spread(serial),
        "ratio": float(np.median(serial / ours)),
        "tokens_per_second": members * one.tokens / float(np.median(ours)),
        **memory(many.lowered().compile()),
    }
    for variant in options.peer:
        other = peer.start(one, method, variant, options.peer_python, rank=options.rank)
        try:
            other.steps(3)
            pairs = [(together.advance(), sum(other.steps(members)["seconds"])) for _ in range(options.repeats)]
        finally:
            other.close()
        ours, theirs = np.asarray(pairs).T
        row |= {"peer": variant, "peer_seconds": spread(theirs), "peer_ratio": float(np.median(theirs / ours))}
        yield row
    if not options.peer:
        yield row
