"""Data in which nothing carries loss is told in a sentence, before a run or at once."""

import dataclasses

import numpy as np
import pytest
from training.small import Points, experiment, points

from ft_jax import data
from ft_jax.training import Budget, EvaluationSpec, Task, Use, fit
from ft_jax.training.limits import carries
from ft_jax.training.prepare import prepare
from ft_jax.training.report.data import read_run


@dataclasses.dataclass(frozen=True)
class Masked(Points):
    """Points of which those are masked whose number in their data set is in `masked`, by label or by weight.

    Attributes:
      masked: first and last place of what is masked in training.
      held_out: whether the evaluation set is masked.
      by: ``"labels"`` or ``"weights"``.
    """

    masked: tuple[int, int] = (0, 0)
    held_out: bool = False
    by: str = "labels"

    def build(self, model, feed):
        train, test = self._spoiled(points(48, 2), slice(*self.masked)), points(21, 1)
        test = self._spoiled(test, slice(None)) if self.held_out else test
        source = data.batches(train, feed.batch_size, shuffle=False)
        return Task("points", source, {"test": data.evaluation_batches(test, 8)}, 48)

    def _spoiled(self, made, places):
        if self.by == "weights":
            weights = np.ones(len(made), np.float32)
            weights[places] = 0
            return data.Dataset({**made.columns, "weights": weights}, made.classes)
        made.columns["labels"][places] = -1
        return made


SHORT = {"budget": Budget(steps=12, batch_size=8), "evaluation": EvaluationSpec()}


@pytest.mark.parametrize("by", ["labels", "weights"])
def test_a_task_in_which_nothing_carries_loss_is_refused_before_training(by, tmp_path):
    with pytest.raises(ValueError, match="nothing in the first 8 batches of task 'points' carries loss: every label"):
        fit(experiment(data=Masked(masked=(0, 48), by=by), **SHORT), run=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_first_batch_without_loss_is_none_and_the_place_in_the_data_stays():
    plan = prepare(experiment(data=Masked(masked=(0, 8)), **SHORT))
    assert (next(plan.stream[0].train)["labels"] == -1).all()


def test_an_evaluation_set_in_which_nothing_counts_is_refused():
    with pytest.raises(ValueError, match="nothing in evaluation set .test. counts: every label is masked"):
        prepare(experiment(data=Masked(held_out=True), **SHORT))


def test_steps_without_loss_are_told_and_the_run_goes_on(tmp_path):
    result = fit(experiment(data=Masked(masked=(8, 24)), **SHORT), run=tmp_path / "run", quiet=True)
    told = [line["message"] for line in read_run(tmp_path / "run").events if line["cause"] == "data"]
    assert result.status == "finished"
    assert sum(int(message.split("batches of ")[1].split()[0]) for message in told) == 4
    assert told[0].startswith("nothing carried loss in the batches of ") and "the first is 2" in told[0]


def test_a_run_whose_methods_add_nothing_either_ends_at_once(tmp_path):
    made = experiment(data=Masked(masked=(0, 48)), method=(Use("incremental.ewc"), Use("transfer.full")), **SHORT)
    with pytest.raises(ValueError, match="nothing in the 8 batches up to step 8 carries loss: every label is"):
        fit(made, run=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"input_ids": np.ones((2, 3)), "labels": np.array([[-1, -1, 2], [-1, -1, -1]])}, True),
        ({"labels": np.array([[-1, 2]]), "weights": np.array([[1.0, 0.0]])}, False),
        ({"labels": np.array([1, 0]), "weights": np.zeros(2)}, False),
        ({"labels": np.array([0.0, -1.5])}, True),
        ({"labels": np.array([1]), "attention_mask": np.zeros((1, 4))}, False),
        ({"chosen": {"labels": np.array([[1]])}, "rejected": {"labels": np.array([[-1]])}}, False),
        ({"images": np.ones((1, 2))}, True),
    ],
)
def test_what_carries_loss_is_what_the_step_counts(batch, found):
    from ft_jax.core.batches import counted, example_weights

    assert carries(batch) is found
    weights = counted(batch) if "labels" in batch else example_weights(batch)
    assert bool((np.asarray(weights) > 0).any()) is found
