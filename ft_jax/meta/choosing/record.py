"""What a state of `choose` knows of its candidates, and the reason for its choice in a sentence."""

from typing import Any

import jax
import numpy as np

from ft_jax.core.state import TrainState


def labels_of(state: TrainState) -> tuple[str, ...]:
    """The candidates that a state holds, in the order of their indices: that of their names."""
    return tuple(sorted(state.params))


def chosen_candidate(state: TrainState, name: str = "meta.choose") -> str:
    """The name of the candidate that trains next."""
    return labels_of(state)[round(float(state.hyper[name]["chosen"]))]


def standings(state: TrainState, name: str = "meta.choose") -> list[dict[str, Any]]:
    """What is known of each candidate, the best by its mean result first; those that had no turn last.

    Returns:
      Of each ``candidate``, ``turns``, ``mean`` (None without a turn), ``expected`` on the task now, ``score``.
    """
    own = jax.device_get(state.memory[name])
    rows = []
    for index, label in enumerate(labels_of(state)):
        turns = int(own["record"]["pulls"][index])
        mean = float(own["record"]["rewards"][index]) / turns if turns else None
        told = {part: float(np.asarray(own[part])[index]) for part in ("expected", "scores")}
        rows.append(
            {"candidate": label, "turns": turns, "mean": mean, "expected": told["expected"], "score": told["scores"]}
        )
    return sorted(rows, key=lambda row: (row["mean"] is None, -(row["mean"] or 0.0)))


def recommended(state: TrainState, name: str = "meta.choose") -> str:
    """The candidate to take in the end: of most turns, then of the best mean result."""
    return max(standings(state, name), key=lambda row: (row["turns"], row["mean"] or 0.0))["candidate"]


def why(state: TrainState, name: str = "meta.choose") -> str:
    """Why the candidate that trains next was chosen, in a sentence."""
    label, rows = chosen_candidate(state, name), standings(state, name)
    row = next(row for row in rows if row["candidate"] == label)
    best = rows[0]
    if row["turns"] == 0:
        return f"{label}: it has had no turn yet"
    known = f"mean {row['mean']:.4g} over {row['turns']} {'turn' if row['turns'] == 1 else 'turns'}"
    if label == best["candidate"]:
        return f"{label}: the best so far, {known}"
    other = f"the best is {best['candidate']} with {best['mean']:.4g}"
    return f"{label}: {known}; {other}, but this one is less known (score {row['score']:.4g})"
