"""Training: an experiment as a value, and `fit`."""

from ft_jax.training.composition import Parts, Use
from ft_jax.training.evaluate import evaluate
from ft_jax.training.experiment import (
    Budget,
    CheckpointSpec,
    DataSpec,
    EvaluationSpec,
    Experiment,
    ModelSpec,
    OptimizerSpec,
)
from ft_jax.training.fit import fit
from ft_jax.training.metrics import HostMetric, Metric
from ft_jax.training.on_policy import OnPolicy
from ft_jax.training.parallel import Mesh, parallelise
from ft_jax.training.prepare import Plan, prepare
from ft_jax.training.process import set_up_process
from ft_jax.training.result import Diverged, Moment, Result
from ft_jax.training.stream import Feed, Stream, Task

__all__ = [
    "Budget",
    "CheckpointSpec",
    "DataSpec",
    "Diverged",
    "EvaluationSpec",
    "Experiment",
    "Feed",
    "HostMetric",
    "Mesh",
    "Metric",
    "ModelSpec",
    "Moment",
    "OnPolicy",
    "OptimizerSpec",
    "Parts",
    "Plan",
    "Result",
    "Stream",
    "Task",
    "Use",
    "evaluate",
    "fit",
    "parallelise",
    "prepare",
    "set_up_process",
]
