"""A GRPO update beside the passes that it is made of: operations of each program as XLA compiled it, and its seconds.

An update answers its prompts and goes forward and backward over prompts and answers; with a divergence it goes forward
by the reference too. Each of these is compiled by itself here, with the same adapters and shapes, and their operations
and seconds summed: what the update has beyond them is its own. The programs run in turns, and seconds are those for
which the process was busy. ``--repeats 0`` counts alone, of models that this machine could not hold.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.losses import token_log_probabilities
from ft_jax.models import generate
from ft_jax.rl.online import grpo
from ft_jax.transfer import lora

from .case import Options
from .kernels import kernels
from .timing import spread

KINDS = {"grpo": {}, "grpo, divergence": {"kl": 0.04}}
"""Options by name."""
SAMPLES = 4


def short(answers):
    """A reward that costs nothing beside the passes: short answers."""
    return -answers.lengths.astype(jnp.float32)


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A row for full fine-tuning and one for LoRA, with and without a divergence; prompts are half of the time."""
    prompts, new = options.batch or 8, (options.time or 64) // 2
    name, shape = Options(size=options.size, batch=prompts, time=new, dtype=options.dtype).shape("tiny")
    model = shape.model(jax.random.key(0) if options.repeats else None)
    apply = model.apply
    question = {"input_ids": np.zeros((prompts, new), np.int32), "attention_mask": np.ones((prompts, new), np.int32)}
    for adapters in options.methods or ("full", "lora"):
        parts = () if adapters == "full" else (lora(rank=options.rank),)
        for kind, settings in KINDS.items():
            own = grpo(apply, question, short, samples=SAMPLES, max_new_tokens=new, **settings)
            update = _program(apply, compose(own, *parts))
            plain = _program(apply, compose(*parts))
            state, apart = (_begun(program, model, bool(options.repeats)) for program in (update, plain))
            count = prompts * SAMPLES
            whole = {field: np.ones((count, 2 * new - 1), np.int32) for field in
                     ("input_ids", "attention_mask", "labels")} | {
                "weights": np.ones((count, 2 * new - 1), np.float32)
            }  # fmt: skip

            def answer(state, batch, key, plain=plain):
                params = plain.parameters(state)["model"]
                asked = {
                    "max_new_tokens": new,
                    "samples": SAMPLES,
                    "temperature": 1.0,
                    "stop_tokens": (),
                    "pad_token": 0,
                }
                return generate(apply, params, batch["input_ids"], batch["attention_mask"], key=key, **asked).tokens

            def forward(state, batch, plain=plain):
                outputs = apply(plain.parameters(state)["model"], batch, None)
                return token_log_probabilities(outputs, batch["labels"])

            passes = {
                "generation": Pass(answer, new - 1, apart, question, jax.random.key(0)),
                "forward and backward": Pass(plain.step, 1, apart, whole),
            }
            if "kl" in settings:
                passes["forward by the reference"] = Pass(forward, 1, apart, whole)
            whole_update = Pass(update.step, new - 1, state, question)
            yield {
                "size": name,
                "method": f"{adapters}, {kind}",
                "batch": [prompts, new],
                "samples": SAMPLES,
                "new": new,
                "flops": whole_update.flops,
                "passes": {name: one.flops for name, one in passes.items()},
                "ratio": round(whole_update.flops / sum(one.flops for one in passes.values()), 4),
                **(taken(whole_update, passes, options.repeats) if options.repeats else {}),
            }


def _program(apply, method):
    return make_step(supervised(apply), optimizer(optax.adamw, learning_rate=1e-4), method)


def _begun(program, model, real: bool):
    """The first state, or its shapes."""
    if real:
        return jax.jit(program.init)(model.params, jax.random.key(0))
    return jax.eval_shape(program.init, model.params, jax.random.key(0))


class Pass:
    """A compiled function with its arguments.

    Attributes:
      flops: operations of its products; `unknown` as in `benchmarks.kernels.kernels`.
    """

    def __init__(self, function: Callable, unknown: int, *arguments: Any):
        self.compiled, self.arguments = jax.jit(function).lower(*arguments).compile(), arguments
        text = self.compiled.as_text()
        self.flops = int(sum(kernel.flops * kernel.runs for kernel in kernels(text, unknown)))

    def run(self) -> float:
        """The seconds for which the process was busy with it once."""
        begin = time.process_time()
        jax.block_until_ready(self.compiled(*self.arguments))
        return time.process_time() - begin


def taken(update: Pass, passes: Mapping[str, Pass], repeats: int) -> dict[str, Any]:
    """Busy seconds of the update and of each pass, taken in turns; the ratio is to the passes of the same turn."""
    turns = np.array([[one.run() for one in (update, *passes.values())] for _ in range(1 + repeats)])[1:]
    ratios = turns[:, 0] / turns[:, 1:].sum(axis=1)
    return {
        "busy_seconds": dict(zip(("update", *passes), map(spread, turns.T), strict=True)),
        "seconds_ratio": spread(ratios),
    }
