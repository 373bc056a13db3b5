"""Trains the experiment of `test_resume` in a process of its own, which the test kills."""

import sys
from pathlib import Path

import numpy as np
from training.small import Points, arrays, experiment

from ft_jax.training import Budget, EvaluationSpec, Use, fit

STREAM = experiment(
    data=Points(shifts=(0.0, 2.0)),
    method=(Use("incremental.ewc", weight=5.0), Use("incremental.replay", capacity=20, size=4)),
    budget=Budget(steps=15, batch_size=8),
    evaluation=EvaluationSpec(every=5, metric="accuracy", mode="max", memories=2),
)
"""Two tasks of 15 steps; an epoch has 6 batches, so checkpoints at 5, 10 and 15 lie within epochs."""

if __name__ == "__main__":
    result = fit(STREAM, run=Path(sys.argv[1]), quiet=True)
    np.savez(Path(sys.argv[1]) / "final.npz", *arrays(result.state))
