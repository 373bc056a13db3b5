"""How much a stream of tasks was learned and forgotten, from the matrix of scores after each task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

AFTER = "after "


def matrix_of(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str = "accuracy"
) -> tuple[list[str], np.ndarray] | None:
    """The tasks' names and their matrix ``[1 + tasks, tasks]``: row 0 before training, row i after task i.

    A task's own set is the one that is called like it, or begins with its name and ``/``. Of several trials it is the
    mean. What a task had before it came is NaN where it was not measured then, as where heads grow.

    Args:
      scores: by phase, set and metric, as in `ft_jax.training.result.Result`.
      metric: of which more is better.

    Returns:
      None where there are no two tasks, or one of them has no such score after it, or after a later one.

    Example:
      >>> scores = {"before": {"a": {"accuracy": 0.1}, "b": {"accuracy": 0.2}}}
      >>> scores |= {"after a": {"a": {"accuracy": 0.9}, "b": {"accuracy": 0.3}}}
      >>> names, matrix = matrix_of(scores | {"after b": {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.8}}})
      >>> names, matrix.tolist()
      (['a', 'b'], [[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]])
    """
    names = [phase.removeprefix(AFTER) for phase in scores if phase.startswith(AFTER)]
    if len(names) < 2 or "before" not in scores:
        return None
    last = scores[f"{AFTER}{names[-1]}"]
    own = [next((one for one in last if one == name or one.startswith(f"{name}/")), None) for name in names]
    rows = [scores["before"], *(scores[f"{AFTER}{name}"] for name in names)]
    values = [[(row.get(one) or {}).get(metric) if one else None for one in own] for row in rows]
    if any(value is None for at, row in enumerate(values) for value in row[:at]):
        return None
    told = [[np.nan if value is None else np.mean(np.asarray(value, np.float64)) for value in row] for row in values]
    return names, np.asarray(told)


def continual(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """What became of a stream's tasks, as avalanche and Lopez-Paz and Ranzato 2017 (arXiv:1706.08840) define it.

    With ``R[i, j]`` the score on task j after task i, R[0] before training and T tasks:
    ``average = mean_j R[T, j]``, ``forgetting = mean_{j < T} (R[j, j] - R[T, j])``: what a task had right after it was
    trained on less what is left (not its best, as in some papers), ``backward_transfer = -forgetting``, and
    ``forward_transfer = mean_{j > 1} (R[j - 1, j] - R[0, j])``, NaN where tasks were not measured before they came.

    Args:
      matrix: R, ``[1 + tasks, tasks]``.

    Raises:
      ValueError: another shape, or fewer than two tasks.

    Example:
      >>> {name: round(value, 3) for name, value in continual([[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]]).items()}
      {'average': 0.65, 'forgetting': 0.4, 'backward_transfer': -0.4, 'forward_transfer': 0.1}
    """
    r = np.asarray(matrix, np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] + 1 or r.shape[1] < 2:
        raise ValueError(
            f"a matrix of shape {r.shape} is not [1 + tasks, tasks] of at least two tasks; give row 0 as well"
        )
    tasks = r.shape[1]
    forgetting = float(np.mean([r[j + 1, j] - r[tasks, j] for j in range(tasks - 1)]))
    return {
        "average": float(np.mean(r[tasks])),
        "forgetting": forgetting,
        "backward_transfer": -forgetting,
        "forward_transfer": float(np.mean([r[j, j] - r[0, j] for j in range(1, tasks)])),
    }
