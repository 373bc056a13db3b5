"""What experiments with language models share: training by a method under a LoRA, and asking for answers."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import models, transfer
from ft_jax.core import Method, compose, jit_step, make_step, optimizer, supervised, warmup_then_decay
from ft_jax.models import Model


def answers(
    model: Model, params: Any, prompts: Sequence[Sequence[int]], most: int, key: jax.Array | None = None
) -> list[list[int]]:
    """What a model writes after each prompt, `most` tokens at most, its stop with it.

    Args:
      model: with a tokenizer.
      params: its parameters.
      prompts: tokens.
      most: tokens of an answer.
      key: to sample by; None for the likeliest token each time.
    """
    longest = max(map(len, prompts))
    ids = np.array([[model.pad_token] * (longest - len(one)) + list(one) for one in prompts], np.int32)
    real = np.array([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], np.int32)
    sampling = {} if key is None else {"key": key, "temperature": 1.0}
    found = models.generate(model, params, ids, real, max_new_tokens=most, **sampling)
    pairs = zip(np.asarray(found.tokens), np.asarray(found.lengths), strict=True)
    return [tokens[:length].tolist() for tokens, length in pairs]


def texts(model: Model, params: Any, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
    """The likeliest `answers` as text, without special tokens."""
    told = answers(model, params, prompts, most)
    return [model.tokenizer.decode(one, skip_special_tokens=True).strip() for one in told]


def trained(
    model: Model, method: Method, batches: Callable[[], Iterable[Mapping[str, Any]]], steps: int, seed: int
) -> Any:
    """The parameters after so many steps with a LoRA on every projection."""
    tuned = optimizer(optax.adamw, schedule=warmup_then_decay(steps), max_norm=1.0, learning_rate=5e-4)
    program = make_step(supervised(model.apply), tuned, compose(method, transfer.lora(rank=8, alpha=16.0)))
    state, step = program.init(model.params, jax.random.key(seed)), jit_step(program.step)
    for batch in itertools.islice(batches(), steps):
        state, _ = step(state, batch)
    return program.parameters(state)["model"]
