"""ft_jax: fine-tuning methods as values that compose, in JAX.

A method is a value: a loss transform, an update transform, a change of parameters, a memory. `compose`
makes one of many, `make_step` makes a training step of it, and the ten families below fill the catalogue.

Example:
  >>> import ft_jax
  >>> from ft_jax import adaptive, transfer
  >>> ft_jax.compose(adaptive.uncertainty(("task",)), transfer.lora(rank=4)).names
  ('adaptive.uncertainty', 'transfer.lora')
"""

from ft_jax import (
    adaptive,
    attention,
    distillation,
    ensemble,
    incremental,
    meta,
    multimodal,
    rl,
    transfer,
    tuning,
)
from ft_jax.core import (
    Method,
    Outputs,
    TrainState,
    catalogue,
    compose,
    jit_step,
    make_step,
    merge,
    optimizer,
    parameters,
    supervised,
)

__version__ = "0.1.0"

__all__ = [
    "Method",
    "Outputs",
    "TrainState",
    "adaptive",
    "attention",
    "catalogue",
    "compose",
    "distillation",
    "ensemble",
    "incremental",
    "jit_step",
    "make_step",
    "merge",
    "meta",
    "multimodal",
    "optimizer",
    "parameters",
    "rl",
    "supervised",
    "transfer",
    "tuning",
]
