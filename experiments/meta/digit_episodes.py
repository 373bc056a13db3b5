"""Three digits from one example each: MAML learns to learn on some digits and is tested on others.

Episodes are drawn from digits 0 to 6 with labels in random order, so that only a start from which one gradient step
on the support examples does the job helps. Test episodes hold digits 7, 8 and 9, which training never shows.
"""

import dataclasses

from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.few_shot import FewShot, query_accuracy
from ft_jax.training.specs import Perceptron

from ..study import after, beats

WAYS = 3

experiment = Experiment(
    name="meta/digit_episodes",
    model=Perceptron(image=(8, 8, 1), widths=(64, 64), classes=WAYS),
    data=FewShot("digits", train=tuple(range(7)), test=(7, 8, 9), ways=WAYS, episodes=128),
    method=(Use("meta.maml", inner_rate=0.4, inner_steps=3),),
    optimizer=OptimizerSpec("adam", learning_rate=2e-3, max_norm=5.0),
    budget=Budget(steps=600, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    metrics={"accuracy": query_accuracy},
    log_every=50,
    expect={"accuracy": 0.55},
)

baselines = {
    "a random start": dataclasses.replace(
        experiment,
        name="meta/digit_episodes-random",
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=0.0),
        budget=Budget(steps=1, batch_size=16),
        expect={},
    )
}
seeds = 3


def claims(results):
    """Accuracy on digits never trained on, after the inner steps on one example of each."""
    return [beats(results, after, "a random start", 0.05, "accuracy on new digits from one example each")]
