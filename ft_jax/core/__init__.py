"""The core algebra: a method is a value, and methods compose over one shared train state."""

from ft_jax.core.batches import shares, weighted_mean
from ft_jax.core.catalogue import Entry, Neutral, Problem, catalogue, register
from ft_jax.core.losses import (
    cross_entropy,
    divergence,
    forward,
    kl_divergence,
    mean_cross_entropy,
    scale_term,
    supervised,
    token_log_probabilities,
)
from ft_jax.core.members import Shared, map_members, member
from ft_jax.core.method import Composition, Loss, Method, compose
from ft_jax.core.optimizers import Optimizer, optimizer, scale_updates, warmup_then_decay
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import combine, never, only, partition, replace_weights
from ft_jax.core.program import Evaluation, Events, Program
from ft_jax.core.state import Context, EvalEvent, StepEvent, TaskEvent, TrainState, UpdateEvent, transition
from ft_jax.core.step import jit_step, make_step, outputs_of, parameters
from ft_jax.core.weights import LowRank, Quantized, Scaled, Weight, materialize, matmul, merge, quantize

__all__ = [
    "Composition", "Context", "Entry", "EvalEvent", "Evaluation", "Events", "Loss", "LowRank", "Method", "Neutral",
    "Optimizer", "Outputs", "Problem", "Program", "Quantized", "Scaled", "Shared", "StepEvent", "TaskEvent",
    "TrainState", "UpdateEvent", "Weight", "catalogue", "combine", "compose", "cross_entropy", "divergence", "forward",
    "jit_step", "kl_divergence", "make_step", "map_members", "materialize", "matmul", "mean_cross_entropy", "member",
    "merge", "never", "only", "optimizer", "outputs_of", "parameters", "partition", "quantize", "register",
    "replace_weights", "scale_term", "scale_updates", "shares", "supervised", "token_log_probabilities", "transition",
    "warmup_then_decay", "weighted_mean",
]  # fmt: skip
