"""Incremental learning: tasks that arrive one after another.

- `ewc`, `synaptic_intelligence`: weights that mattered to earlier tasks are held by a quadratic penalty.
- `replay`: earlier examples, kept in a reservoir on the device, are trained on again.
- `der`: these with the answers that the model gave them (DER, DER++).
- `gem`, `agem`: steps that raise the loss on earlier examples are turned.
- `lwf`: the model before the task teaches the model in it.
- `averaging`: evaluations see the mean of what the tasks ended with.
"""

from ft_jax.incremental.averaging import averaging
from ft_jax.incremental.constrained import agem, gem
from ft_jax.incremental.dark import der
from ft_jax.incremental.ewc import ewc
from ft_jax.incremental.lwf import lwf
from ft_jax.incremental.replay import replay
from ft_jax.incremental.synaptic import synaptic_intelligence

__all__ = ["agem", "averaging", "der", "ewc", "gem", "lwf", "replay", "synaptic_intelligence"]
