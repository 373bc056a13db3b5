"""Training steps: tokens a second, the peer's on the same weights and batch, the floor and the gap."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ft_jax.core.params import count

from . import peer, trace
from .case import Options
from .cost import step_cost
from .programs import Step, build
from .timing import Runner, bandwidth, matrix_rate, memory, peak_bytes, spread

TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""How far the two sides' losses of the same weights and batch may be apart."""

ROUNDED = 2e-2
"""The same with a 4-bit base, whose blocks of 64 run along outputs here and along inputs in the peer."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row a method and, with a peer, one a variant that ran pair by pair with ours."""
    name, shape = options.shape("minilm" if jax.default_backend() == "cpu" else "llama-1b")
    if options.peer:
        peer.python_with_torch(options.peer_python)
    for method in options.methods or ("lora", "full"):
        step = build(method, shape, rank=options.rank, forward=options.forward)
        yield from measure(name, step, options)


def measure(name: str, step: Step, options: Options) -> Iterator[dict[str, Any]]:
    """The rows of one method."""
    compiled, state, batch = step.start()
    runner = Runner(compiled, state, batch)
    first = task_loss(step, state) if options.peer else None
    for _ in range(2):
        runner.advance()
    if options.profile:
        for operation in trace.slowest(lambda: runner.advance(), options.profile):
            yield {"size": name, "method": step.name, "kind": "operation", **operation}
    ours = [runner.advance(2) for _ in range(options.repeats)]
    row = {
        "size": name,
        "method": step.name,
        "forward": options.forward,
        "remat": step.shape.config.remat,
        "batch": [step.shape.batch, step.shape.time],
        "dtype": step.shape.dtype,
        "rank": options.rank,
        "compilations": compiled.compilations(),
        **stated(step, ours, options),
    }
    if not options.peer:
        yield row
        return
    for variant in options.peer:
        yield {**row, **beside(step, variant, runner, first, options)}


def task_loss(step: Step, state: Any) -> float:
    """The task's loss of the batch, of its chosen side where it has two, before anything is learned."""
    terms, _ = jax.jit(step.program.evaluate)(state, step.batch.get("chosen", step.batch))
    return float(np.mean(terms["task"]))


def stated(step: Step, taken: list[float], options: Options) -> dict[str, Any]:
    """Seconds, tokens a second, memory, and how far from the floor."""
    rate, causal = matrix_rate(step.shape.dtype), jax.default_backend() == "gpu" and step.shape.classes is None
    cost = step_cost(step.shape, step.name, rank=options.rank, forward=options.forward, causal=causal)
    floor, median = cost.floor(rate, bandwidth()), float(np.median(taken))
    return {
        "seconds": spread(taken),
        "tokens_per_second": step.tokens / median,
        "matrix_rate": rate,
        "bandwidth": bandwidth(),
        "flops": cost.flops,
        "floor_seconds": floor,
        "gap": median / floor,
        "share_of_matrix_rate": cost.flops / median / rate,
        "peak_bytes": peak_bytes(),
        **memory(step.lowered().compile()),
    }


def beside(step: Step, variant: str, runner: Runner, first: float, options: Options) -> dict[str, Any]:
    """The peer's part of a row: pairs of steps, ours and the peer's in turn, after both agreed on the loss."""
    if step.name not in peer.METHODS or (step.name in ("dpo", "distillation") and step.shape.classes is not None):
        raise ValueError(
            f"the peer trains {', '.join(peer.METHODS)}, the last two on language models; run {step.name!r} on "
            "this shape without --peer"
        )
    other = peer.start(step, step.name, variant, options.peer_python, rank=options.rank)
    try:
        theirs = other.facts["loss"]
        tolerance = ROUNDED if step.name == "qlora" else TOLERANCE[step.shape.dtype]
        if not abs(theirs - first) <= tolerance * max(1.0, abs(first)):
            raise ValueError(f"the peer's loss of this batch is {theirs} and ours {first}; they don't do the same")
        learning = count(runner.state.params)
        if other.facts["learning"] != learning:
            raise ValueError(f"{other.facts['learning']:,} of the peer's parameters learn and {learning:,} of ours")
        other.steps(3)
        runner.cpu_seconds.clear()
        pairs, busy = [], []
        for _ in range(options.repeats):
            mine, answer = runner.advance(), other.steps(1)
            pairs.append((mine, answer["seconds"][0]))
            busy.append(answer["cpu_seconds"][0])
        peak = other.steps(1)["peak_bytes"]
    finally:
        other.close()
    ours, peers = np.asarray(pairs).T
    return {
        "peer": variant,
        "loss": first,
        "peer_loss": theirs,
        "peer_seconds": spread(peers),
        "paired_seconds": spread(ours),
        "ratio": float(np.median(peers / ours)),
        "ratio_range": [float((peers / ours).min()), float((peers / ours).max())],
        "cpu_ratio": float(np.median(np.asarray(busy) / np.asarray(runner.cpu_seconds))),
        "peer_peak_bytes": peak,
        **{f"peer_{name}": other.facts[name] for name in ("torch", "transformers", "threads")},
    }
