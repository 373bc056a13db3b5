"""A GRPO update beside the passes that it is made of: operations of each program, as XLA compiled it.

An update answers its prompts and goes forward and backward over prompts and answers; with a divergence it goes forward
by the reference too. Each of these is compiled by itself here, with the same adapters and shapes, and their operations
summed: what the update has beyond them is its own.
"""

from collections.abc import Iterator
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
    model = shape.model(None)
    apply = model.apply
    question = {"input_ids": np.zeros((prompts, new), np.int32), "attention_mask": np.ones((prompts, new), np.int32)}
    for adapters in options.methods or ("full", "lora"):
        parts = () if adapters == "full" else (lora(rank=options.rank),)
        for kind, settings in KINDS.items():
            own = grpo(apply, question, short, samples=SAMPLES, max_new_tokens=new, **settings)
            update = _program(apply, compose(own, *parts))
            plain = _program(apply, compose(*parts))
            state = jax.eval_shape(update.init, model.params, jax.random.key(0))
            apart = jax.eval_shape(plain.init, model.params, jax.random.key(0))
            count = prompts * SAMPLES
            whole = {field: jax.ShapeDtypeStruct((count, 2 * new - 1), jnp.int32) for field in
                     ("input_ids", "attention_mask", "labels")} | {
                "weights": jax.ShapeDtypeStruct((count, 2 * new - 1), jnp.float32)
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
                "generation": operations(answer, new - 1, apart, question, jax.random.key(0)),
                "forward and backward": operations(plain.step, 1, apart, whole),
            }
            if "kl" in settings:
                passes["forward by the reference"] = operations(forward, 1, apart, whole)
            found = operations(update.step, new - 1, state, question)
            yield {
                "size": name,
                "method": f"{adapters}, {kind}",
                "batch": [prompts, new],
                "samples": SAMPLES,
                "new": new,
                "flops": found,
                "passes": passes,
                "ratio": round(found / sum(passes.values()), 4),
            }


def _program(apply, method):
    return make_step(supervised(apply), optimizer(optax.adamw, learning_rate=1e-4), method)


def operations(function, unknown: int, *arguments) -> int:
    """Operations of the products of a compiled function; `unknown` as in `benchmarks.kernels.kernels`."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return int(sum(kernel.flops * kernel.runs for kernel in kernels(text, unknown)))
