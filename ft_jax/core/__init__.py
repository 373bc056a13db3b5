"""The core algebra: a method is a value, and methods compose over one shared train state."""

from ft_jax.core.catalogue import Entry, Neutral, Problem, catalogue, register
from ft_jax.core.losses import cross_entropy, forward, kl_divergence, supervised, token_log_probabilities
from ft_jax.core.method import Composition, Loss, Method, Program, compose
from ft_jax.core.optimizers import Optimizer, optimizer, scale_updates, warmup_then_decay
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import combine, never, only, partition, replace_weights
from ft_jax.core.state import Context, EvalEvent, StepEvent, TaskEvent, TrainState
from ft_jax.core.step import jit_step, make_step, parameters
from ft_jax.core.weights import LowRank, Quantized, Scaled, Weight, materialize, matmul, merge, quantize

__all__ = [
    "Composition", "Context", "Entry", "EvalEvent", "Loss", "LowRank", "Method", "Neutral", "Optimizer", "Outputs",
    "Problem", "Program", "Quantized", "Scaled", "StepEvent", "TaskEvent", "TrainState", "Weight", "catalogue",
    "combine", "compose", "cross_entropy", "forward", "jit_step", "kl_divergence", "make_step", "materialize", "matmul",
    "merge", "never", "only", "optimizer", "parameters", "partition", "quantize", "register", "replace_weights",
    "scale_updates", "supervised", "token_log_probabilities", "warmup_then_decay",
]  # fmt: skip
