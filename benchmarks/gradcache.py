"""A contrastive step by batch: whole, and by GradCache in micro-batches: memory, operations, and seconds where asked.

The batch is 1, 2, 4 and 8 times what ``--batch`` says fits; by GradCache it goes in micro-batches of that many pairs,
and gives what the whole batch gives (tests/core/test_stages.py, tests/multimodal). Memory and operations are those of
the compiled step, which is not run, for the device that is here. ``--methods seconds`` runs both ways, in turns.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from ft_jax import models
from ft_jax.core import jit_step, make_step, optimizer
from ft_jax.models import DualConfig, Model, TextTowerConfig, ViTConfig
from ft_jax.multimodal import pairs, temperature

from .case import Options
from .kernels import kernels
from .programs import Step
from .timing import Runner, memory, spread

TIMES = (1, 2, 4, 8)
"""How often the batch holds what fits."""

METHODS = ("memory", "seconds")


def _clip(image, patch, width, layers, heads, text_width, text_heads, shared, vocabulary, positions) -> DualConfig:
    vision = ViTConfig(
        (image, image, 3), patch, width, layers, heads, 4 * width, classes=None, first_norm=True, patch_bias=False
    )
    text = TextTowerConfig(vocabulary, text_width, layers, text_heads, 4 * text_width, positions)
    return DualConfig(vision, text, shared)


CLIPS = {
    "tiny": (_clip(8, 4, 32, 1, 2, 32, 2, 16, 64, 8), 4),
    "small": (_clip(64, 16, 256, 4, 4, 256, 4, 128, 1024, 16), 16),
    "vit-b-32": (_clip(224, 32, 768, 12, 12, 512, 8, 512, 49_408, 77), 32),
}
"""Two towers by name, and the pairs of a batch that fits; the last is CLIP's ViT-B/32."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A row a batch and a way.

    Raises:
      ValueError: an unknown size or method.
    """
    asked = options.asked("gradcache", METHODS, default=METHODS[:1])
    for what in asked:
        size = options.size or ("vit-b-32" if what == "memory" else "small")
        if size not in CLIPS:
            raise ValueError(f"there is no CLIP {size!r}; use one of {', '.join(CLIPS)}")
        config, fits = CLIPS[size]
        config = dataclasses.replace(config, remat=options.remat or "none", dtype=options.dtype or "float32", scan=True)
        fits = options.batch or fits
        named = {"kind": what, "size": size, "fits": fits, "dtype": config.dtype, "remat": config.remat}
        for times in TIMES:
            if what == "memory":
                for parts in sorted({1, times}):
                    yield {**named, "times": times, "micro_batches": parts, **held(config, fits * times, parts)}
            elif times > 1:
                found = taken(config, fits * times, times, options.repeats)
                yield {**named, "times": times, "micro_batches": times, **found}


def step(model: Model, batch: int, parts: int) -> Step:
    """A step of CLIP's loss on random pairs, in so many micro-batches."""
    text, random = model.config.text, np.random.default_rng(0)
    ids = random.integers(1, text.vocabulary, (batch, text.positions), dtype=np.int32)
    images = random.random((batch, *model.config.vision.image), dtype=np.float32)
    tuned = optimizer(optax.adamw, learning_rate=1e-4, weight_decay=0.0)
    program = make_step(pairs(model.apply), tuned, temperature(), accumulate=parts)
    return Step("clip", None, model, program, {"images": images, "input_ids": ids})


def held(config: DualConfig, batch: int, parts: int) -> dict[str, Any]:
    """What the compiled step holds, and the operations of its products, as often as they run."""
    compiled, _, _ = step(models.build(config, None), batch, parts).compiled()
    products = sum(kernel.flops * kernel.runs for kernel in kernels(compiled.as_text()))
    return {"batch": batch, "flops": products, **memory(compiled), "compiled_for": jax.default_backend()}


def taken(config: DualConfig, batch: int, parts: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step in micro-batches over those of a whole one, in turns, and how far their first losses differ."""
    model = models.build(config, jax.random.key(0))
    runners = {}
    for count in (1, parts):
        one = step(model, batch, count)
        state = jax.jit(one.program.init)(model.params, jax.random.key(1))
        runners[count] = Runner(jit_step(one.program.step), state, jax.device_put(one.batch))
        runners[count].advance()
    differ = abs(float(runners[1].loss) - float(runners[parts].loss))
    both = np.array([[runners[count].advance() for count in (1, parts)] for _ in range(repeats)])
    ratios = both[:, 1] / both[:, 0]
    return {
        "batch": batch,
        "difference_of_losses": differ,
        "seconds": {"whole": spread(both[:, 0]), "micro_batches": spread(both[:, 1])},
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
    }
