"""Any experiment's data cut for cross-validation: trained without one fold, evaluated on it."""

import dataclasses
from typing import Any

import numpy as np

from ft_jax.core.params import nearest
from ft_jax.data import Batches, Dataset, EvaluationBatches, folds
from ft_jax.data.folds import FoldKind
from ft_jax.outside import printable
from ft_jax.training.stream import Feed, Stream, Task, check_stream

HELD_OUT = "held out"
"""The evaluation set of a fold."""


@dataclasses.dataclass(frozen=True)
class Folded:
    """A `DataSpec` without one of its folds, which is what it is evaluated on.

    The training examples are cut; what the data holds back for testing is not read. Works over every data spec
    whose one task trains on `ft_jax.data.batches`.

    Attributes:
      data: the data spec.
      count, index: of folds, and which is held out.
      kind: as for `ft_jax.data.folds`; None stratifies where labels are classes, groups where there is a `group`.
      group: the column that says what belongs together; it is not part of the batches.
      seed: of the shuffling into folds, apart from the order of training.
    """

    data: Any
    count: int
    index: int
    kind: FoldKind | None = None
    group: str | None = None
    seed: int = 0

    def outputs(self) -> int:
        """As `outputs_of` the data."""
        return outputs_of(self.data)

    def build(self, model: Any, feed: Feed) -> Stream:
        """The one task without the fold.

        Raises:
          ValueError: folds that can't be, or data that can't be cut.
        """
        return self.of(self.data.build(model, feed))

    def of(self, stream: Stream) -> Stream:
        """The fold of data that is built already; raises as `build` does."""
        stream = check_stream(stream)
        if len(stream) > 1:
            raise ValueError(f"cross-validation cuts one task, and the data has {len(stream)}; fold them one at a time")
        [task] = stream
        plan = getattr(task.train, "plan", None)
        if not isinstance(task.train, Batches) or plan is None:
            raise ValueError(
                f"cross-validation cuts what ft_jax.data.batches trains on, and task {printable(task.name)} trains on "
                f"a {type(task.train).__name__}; give the data spec one without other parts"
            )
        train, held = self.cut(plan.dataset)[self.index]
        dataset = plan.dataset
        if self.group is not None:
            dataset = dataset.select(*(name for name in dataset.columns if name != self.group))
        fitted = dataclasses.replace(plan, dataset=dataset.take(train))
        judged = dataclasses.replace(
            plan,
            dataset=dataset.take(held),
            epochs=1,
            shuffle=False,
            group_by_length=1,
            remainder="pad",
            transform=_transform_of_evaluation(task, plan),
            process=0,
            processes=1,
        )
        return (Task(task.name, Batches(fitted), {HELD_OUT: EvaluationBatches(judged)}, len(train), task.steps),)

    def cut(self, dataset: Dataset) -> list:
        """All folds, as `ft_jax.data.folds` gives them."""
        labels = dataset.columns.get("labels")
        classes = labels if labels is not None and np.asarray(labels[0]).ndim == 0 else None
        if classes is not None and not np.issubdtype(np.asarray(classes[0]).dtype, np.integer):
            classes = None
        groups = None
        if self.group is not None:
            if self.group not in dataset.columns:
                raise ValueError(
                    f"the data has no column {printable(self.group)} to group by; the nearest are "
                    f"{nearest(self.group, dataset.columns)}"
                )
            groups = dataset.columns[self.group]
        kind = self.kind or ("grouped" if groups is not None else "plain" if classes is None else "stratified")
        needs = classes if "stratified" in kind or kind == "plain" else None
        return folds(self.count, len(dataset), kind=kind, labels=needs, groups=groups, seed=self.seed)


def outputs_of(spec: Any) -> int:
    """How many outputs a head for any of the folds needs: as many as for all of the data.

    Raises:
      ValueError: the data doesn't say.
    """
    if not hasattr(spec, "outputs"):
        raise ValueError(f"{type(spec).__name__} doesn't say how many classes it has; give model.classes a number")
    return spec.outputs()


def _transform_of_evaluation(task: Task, plan):
    """What evaluation does to an example: no augmentation, but all that turns it into a model's fields."""
    if plan.transform is None:
        return None
    for batches in task.evaluations.values():
        if isinstance(batches, EvaluationBatches):
            return batches.plan.transform
    raise ValueError(
        f"task {printable(task.name)} transforms its training examples and has no evaluation set that shows what a "
        "held-out example needs; give it one"
    )
