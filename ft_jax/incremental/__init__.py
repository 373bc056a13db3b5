"""Incremental learning: tasks that arrive one after another.

- `ewc`, `synaptic_intelligence`, `mas`: weights that mattered to earlier tasks are held by a quadratic penalty.
- `replay`: earlier examples, kept in a reservoir on the device, are trained on again; `balanced_replay` keeps as many
  of every class, `replay_by_loss` more of those that were answered wrongly, and with `er_ace` new examples compete
  among their own classes only.
- `der`: these with the answers that the model gave them (DER, DER++).
- `gem`, `agem`: steps that raise the loss on earlier examples are turned.
- `lwf`: the model before the task teaches the model in it.
- `icarl`: few exemplars of each class, chosen by herding, which teach, and answer by their nearest mean.
- `nearest_mean`, `slda`, `ranpac`: heads in closed form, from one pass over a task's examples.
- `osf`: full rank, but for the directions that earlier tasks use most.
- `o_lora`: a low-rank update for each task, orthogonal to those before.
- `averaging`: evaluations see the mean of what the tasks ended with.
"""

from ft_jax.incremental.ace import er_ace
from ft_jax.incremental.averaging import averaging
from ft_jax.incremental.closed_form import nearest_mean, ranpac, slda
from ft_jax.incremental.constrained import agem, gem
from ft_jax.incremental.dark import der
from ft_jax.incremental.ewc import ewc
from ft_jax.incremental.icarl import icarl
from ft_jax.incremental.kept import balanced_replay, replay_by_loss
from ft_jax.incremental.lwf import lwf
from ft_jax.incremental.mas import mas
from ft_jax.incremental.o_lora import o_lora
from ft_jax.incremental.osf import osf
from ft_jax.incremental.replay import capacity_within, replay
from ft_jax.incremental.synaptic import synaptic_intelligence

__all__ = [
    "agem",
    "averaging",
    "balanced_replay",
    "capacity_within",
    "der",
    "er_ace",
    "ewc",
    "gem",
    "icarl",
    "lwf",
    "mas",
    "nearest_mean",
    "o_lora",
    "osf",
    "ranpac",
    "replay",
    "replay_by_loss",
    "slda",
    "synaptic_intelligence",
]
