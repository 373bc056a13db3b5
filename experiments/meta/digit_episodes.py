"""Three digits from one example each: MAML learns to learn on some digits and is tested on others.

Episodes are drawn from digits 0 to 6 with labels in random order, so that only a start from which one gradient step
on the support examples does the job helps. Test episodes hold digits 7, 8 and 9, which training never shows.
"""

import dataclasses
from typing import Any

import numpy as np

from ft_jax import data
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task, Use
from ft_jax.training.specs import Perceptron

from ..study import after, beats

WAYS, QUERIES = 3, 5


class Episodes:
    """An endless source of batches of episodes; batch ``number`` depends on the seed and its number alone."""

    def __init__(self, examples: data.Dataset, digits: tuple[int, ...], tasks: int, shots: int, seed: int):
        self.images, self.labels = (np.asarray(examples.column(name)) for name in ("images", "labels"))
        self.digits, self.tasks, self.shots, self.seed, self.number = digits, tasks, shots, seed, 0

    def __next__(self) -> dict[str, Any]:
        generator = np.random.default_rng([self.seed, self.number])
        self.number += 1
        tasks = [self._task(generator) for _ in range(self.tasks)]
        return {
            part: {field: np.stack([task[part][field] for task in tasks]) for field in ("images", "labels")}
            for part in ("support", "query")
        }

    def _task(self, generator):
        chosen = generator.permutation(self.digits)[:WAYS]
        rows = [
            generator.choice(np.flatnonzero(self.labels == digit), self.shots + QUERIES, replace=False)
            for digit in chosen
        ]
        parts = {"support": [row[: self.shots] for row in rows], "query": [row[self.shots :] for row in rows]}
        return {
            part: {
                "images": self.images[np.concatenate(chosen_rows)],
                "labels": np.repeat(np.arange(WAYS, dtype=np.int32), len(chosen_rows[0])),
            }
            for part, chosen_rows in parts.items()
        }

    def get_state(self) -> int:
        """The next batch's number."""
        return self.number

    def set_state(self, state: int) -> None:
        """Go on from a number."""
        self.number = state


@dataclasses.dataclass(frozen=True)
class DigitEpisodes:
    """Episodes of the digits 0 to 6 to train on, of 7, 8 and 9 to test on."""

    shots: int = 1

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task; a batch has ``feed.batch_size`` episodes."""
        examples = data.load("digits")
        test = Episodes(examples, (7, 8, 9), feed.batch_size, self.shots, seed=10**6)
        evaluation = [next(test) for _ in range(8)]
        source = Episodes(examples, tuple(range(7)), feed.batch_size, self.shots, feed.seed)
        return (Task("episodes", source, {"new digits": evaluation}),)


def query_accuracy(predictions, batch):
    """Share of query examples whose likeliest class is the label; predictions come task after task."""
    labels = batch["query"]["labels"].reshape(-1)
    correct = predictions.argmax(-1) == labels
    return correct.sum(), labels.size


experiment = Experiment(
    name="meta/digit_episodes",
    model=Perceptron(image=(8, 8, 1), widths=(64, 64), classes=WAYS),
    data=DigitEpisodes(),
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
