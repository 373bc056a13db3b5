"""ft_jax: fine-tuning methods as values that compose, in JAX.

A method is a value: a loss transform, an update transform, a change of parameters, a memory. `compose`
makes one of many, `make_step` makes a training step of it, and the ten families below fill the catalogue.

What the package names is imported when it is first used, so that ``import ft_jax`` and ``ft-jax --help`` wait for
nothing.

Example:
  >>> import ft_jax
  >>> from ft_jax import adaptive, transfer
  >>> ft_jax.compose(adaptive.uncertainty(("task",)), transfer.lora(rank=4)).names
  ('adaptive.uncertainty', 'transfer.lora')
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft_jax import (
        adaptive,
        assets,
        attention,
        data,
        distillation,
        ensemble,
        incremental,
        meta,
        models,
        multimodal,
        rl,
        training,
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
    "assets",
    "attention",
    "catalogue",
    "compose",
    "data",
    "distillation",
    "ensemble",
    "incremental",
    "jit_step",
    "make_step",
    "merge",
    "meta",
    "models",
    "multimodal",
    "optimizer",
    "parameters",
    "rl",
    "supervised",
    "training",
    "transfer",
    "tuning",
]

_OF_THE_CORE = frozenset(
    ("Method", "Outputs", "TrainState", "catalogue", "compose", "jit_step", "make_step", "merge", "optimizer")
) | {"parameters", "supervised"}


def __getattr__(name: str) -> Any:
    """The core's names and the packages, imported at their first use."""
    if name in _OF_THE_CORE:
        value = getattr(importlib.import_module("ft_jax.core"), name)
    elif name in __all__:
        value = importlib.import_module(f"ft_jax.{name}")
    else:
        raise AttributeError(f"module 'ft_jax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
