"""A part of a data set that looks like the whole."""

import numpy as np

from ft_jax.data.dataset import Computed, Dataset


def sample(dataset: Dataset, count: int, seed: int = 0, by: str = "labels") -> Dataset:
    """So many examples drawn by a seed, each class's share as in the whole set, in the order they have there.

    Shares are rounded to the largest remainders, and a class gets at least one example where there are enough. A set
    without class ids in ``by`` is drawn from as one class.

    Args:
      dataset: to draw from, in any order.
      count: of examples.
      seed: of the draw.
      by: the column of class ids.

    Raises:
      ValueError: the count is less than 1, or more than the set has.

    Example:
      >>> sorted_by_class = Dataset({"labels": np.repeat([0, 1, 2], [60, 30, 10])})
      >>> np.bincount(sample(sorted_by_class, 20).columns["labels"])
      array([12,  6,  2])
    """
    if not 1 <= count <= len(dataset):
        raise ValueError(
            f"{count} examples can't be drawn from {len(dataset)}; take 1 to {len(dataset)}, or all of them"
        )
    groups = np.unique(class_ids(dataset, by), return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(groups)
    draw = np.random.default_rng([seed, len(dataset)])
    order = draw.permutation(len(dataset))
    chosen = [order[groups[order] == group][:most] for group, most in enumerate(shares(sizes, count))]
    return dataset.take(np.sort(np.concatenate(chosen)))


def class_ids(dataset: Dataset, by: str = "labels") -> np.ndarray:
    """The class of each example; one for all where the column holds none."""
    column = dataset.columns.get(by)
    values = [column[place] for place in range(len(column))] if isinstance(column, Computed) else column
    if values is None or any(np.ndim(value) for value in values):
        return np.zeros(len(dataset), np.int64)
    array = np.asarray(values)
    return array if array.dtype.kind in "biuUS" else np.zeros(len(dataset), np.int64)


def shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many of each class: in proportion to `sizes`, by largest remainders, none without where that is possible.

    Example:
      >>> shares(np.array([97, 2, 1]), 10), shares(np.array([97, 2, 1]), 2)
      (array([8, 1, 1]), array([2, 0, 0]))
    """
    exact = sizes * count / sizes.sum()
    given = np.floor(exact).astype(np.int64)
    rest = np.argsort(given - exact, kind="stable")[: count - given.sum()]
    given[rest] += 1
    if count >= len(sizes):
        for empty in np.flatnonzero(given == 0):
            given[np.argmax(given)] -= 1
            given[empty] = 1
    return given
