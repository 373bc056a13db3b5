"""All folds of an experiment's data at once: the examples on the device, and batches of their rows."""

import dataclasses
from typing import Any

import numpy as np

from ft_jax.data import Dataset, EvaluationBatches, collate
from ft_jax.data.pipeline import Plan
from ft_jax.training.stream import Feed, Stream, Task, check_stream
from ft_jax.training.sweeps.folded import HELD_OUT, Folded, outputs_of


class FoldRows:
    """An endless source of ``rows [batch, folds]``: column ``f`` is what a run without fold ``f`` would train on."""

    def __init__(self, plans: list[Plan], places: list[np.ndarray]):
        self._plans, self._places, self._number = plans, places, 0

    def __next__(self) -> dict[str, np.ndarray]:
        columns = [places[plan.rows(self._number)] for plan, places in zip(self._plans, self._places, strict=True)]
        self._number += 1
        return {"rows": np.stack(columns, axis=1).astype(np.int32)}

    def get_state(self) -> int:
        """The number of the next batch."""
        return self._number

    def set_state(self, state: int) -> None:
        """Goes on from a batch."""
        self._number = int(state)


@dataclasses.dataclass(frozen=True)
class AllFolds:
    """A `DataSpec` for `ft_jax.tuning.cross_validation`: every fold of `Folded` at once.

    Attributes:
      data, count, kind, group, seed: as of `Folded`.
    """

    data: Any
    count: int
    kind: str | None = None
    group: str | None = None
    seed: int = 0

    def outputs(self) -> int:
        """As `outputs_of` the data."""
        return outputs_of(self.data)

    def build(self, model: Any, feed: Feed) -> Stream:
        """The one task: rows to train on, and all examples with their folds to evaluate on.

        Raises:
          ValueError: data that can't be cut, or training examples that are transformed anew in every epoch.
        """
        whole = check_stream(self.data.build(model, feed))
        plans, places, held, sizes = [], [], None, []
        for index in range(self.count):
            folded = Folded(self.data, self.count, index, self.kind, self.group, self.seed)
            [task] = folded.of(whole)
            dataset = whole[0].train.plan.dataset
            train, out = folded.cut(dataset)[index]
            plans.append(task.train.plan)
            places.append(np.asarray(train))
            sizes.append(task.examples)
            held = np.full(len(dataset), -1) if held is None else held
            held[out] = index
        if plans[0].transform is not None:
            raise ValueError("folds in one program can't transform examples anew in every epoch; use together=1")
        judged = dataclasses.replace(
            plans[0],
            dataset=self._fields(dataset).with_columns(fold=held.astype(np.int32)),
            epochs=1,
            shuffle=False,
            group_by_length=1,
            remainder="pad",
        )
        source = FoldRows(plans, places)
        return (Task(task.name, source, {HELD_OUT: EvaluationBatches(judged)}, min(sizes), task.steps),)

    def _fields(self, dataset: Dataset) -> Dataset:
        return dataset.select(*(name for name in dataset.columns if name != self.group))

    def examples(self, model: Any, feed: Feed) -> dict[str, np.ndarray]:
        """All training examples as one batch ``[examples, ...]``."""
        [task] = check_stream(self.data.build(model, feed))
        plan = task.train.plan
        length = max(plan.length) if isinstance(plan.length, tuple) and plan.length else plan.length
        dataset = self._fields(plan.dataset)
        return collate([dataset[index] for index in range(len(dataset))], length, plan.padding)
