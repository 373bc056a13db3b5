"""Digits that arrive two classes at a time to a head that grows with them.

The head begins with two outputs and has two more at the start of each experience; weights, moments and memories of what
was there stay. Beside it a head that has all ten from the start.
"""

import dataclasses

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.experiences import Experiences
from ft_jax.training.specs import Perceptron

from ..study import Claim, after

WITHIN = 0.03
"""Of the whole head's average accuracy the growing one's is claimed to be no further below."""

experiment = Experiment(
    name="incremental/growing_digits",
    model=Perceptron(image=(8, 8, 1), widths=(128,)),
    data=Experiences("digits", by="class", parts=5, heads="grow"),
    method=(Use("incremental.balanced_replay", capacity=200, size=32),),
    optimizer=OptimizerSpec("adam", learning_rate=3e-3),
    budget=Budget(steps=60, batch_size=32),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=20,
)

WHOLE = "a head with all ten outputs"
whole = dataclasses.replace(experiment.data, heads=None)
baselines = {WHOLE: dataclasses.replace(experiment, name="incremental/growing_digits-whole", data=whole)}
seeds = 3


def claims(results):
    """Average accuracy over all five pairs after the last."""
    ours, theirs = (sum(map(after, results[name])) / seeds for name in ("tuned", WHOLE))
    text = (
        f"average accuracy after the last pair {ours:.3f} against {theirs:.3f} of {WHOLE}, over {seeds} seeds: below "
        f"by {theirs - ours:.3f}, at most {WITHIN:g} was claimed"
    )
    return [Claim(text, theirs - ours <= WITHIN)]
