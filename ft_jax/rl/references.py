"""What a reference policy thinks of answers, computed once and kept on disk."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.losses import token_log_probabilities
from ft_jax.data import Dataset, collate
from ft_jax.data.tables import read_npz


def with_references(
    dataset: Dataset, apply: Callable, params: Any, *, length: int, batch_size: int = 16, cache: Path | None = None
) -> Dataset:
    """A data set whose answers carry their log-probability under a reference, the field ``reference``.

    With it `ft_jax.rl.dpo` and `ft_jax.rl.kto` take ``reference="given"`` and keep no copy of the parameters.

    Args:
      dataset: as `ft_jax.data.preferences` or `ft_jax.data.judgements` gives it.
      apply, params: of the reference.
      length: tokens of a row.
      batch_size: answers at once.
      cache: a file, read where it was written for the same answers and parameters, else written.

    Returns:
      The data set with ``reference`` in the parts ``chosen`` and ``rejected``, or beside ``desirable`` and in the part
      ``mismatched``.

    Raises:
      ValueError: a file that was written for other answers or parameters.
    """
    parts = [part for part in ("chosen", "rejected", "mismatched") if part in dataset.columns]
    answers = {part: list(dataset.columns[part]) for part in parts}
    if "input_ids" in dataset.columns:
        fields = ("input_ids", "labels", "weights")
        rows = zip(*(dataset.columns[field] for field in fields), strict=True)
        answers[""] = [dict(zip(fields, row, strict=True)) for row in rows]
    stamp = _stamp(answers, params)
    if cache is not None and Path(cache).exists():
        stored = read_npz(Path(cache))
        if str(stored.get("stamp")) != stamp:
            raise ValueError(
                f"{cache} holds references of other answers or parameters; delete it, or give another file"
            )
        found = {part: stored[f"references/{part}"] for part in answers}
    else:
        scored = jax.jit(lambda params, batch: _scored(apply, params, batch))
        found = {part: _all(scored, params, rows, length, batch_size) for part, rows in answers.items()}
        if cache is not None:
            Path(cache).parent.mkdir(parents=True, exist_ok=True)
            np.savez(cache, stamp=stamp, **{f"references/{part}": values for part, values in found.items()})
    columns = dict(dataset.columns)
    for part in parts:
        columns[part] = [{**row, "reference": value} for row, value in zip(answers[part], found[part], strict=True)]
    if "" in found:
        columns["reference"] = list(found[""])
    return Dataset(columns)


def _scored(apply, params, batch):
    outputs = apply(params, batch, None)
    own = token_log_probabilities(outputs, jnp.maximum(batch["labels"], 0))
    return jnp.sum(jnp.where(batch["labels"] >= 0, batch["weights"] * own, 0.0), axis=1)


def _all(scored, params, rows, length, size):
    found = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        # The last rows are repeated, so that one shape is compiled.
        batch = collate([*some, *[some[-1]] * (size - len(some))], length=length)
        found.append(np.asarray(scored(params, batch))[: len(some)])
    return np.concatenate(found)


def _stamp(answers: Mapping[str, list], params) -> str:
    """A digest of the answers and the parameters."""
    digest = hashlib.sha256()
    for part, rows in answers.items():
        digest.update(part.encode())
        for row in rows:
            digest.update(np.asarray(row["input_ids"]).tobytes() + np.asarray(row["weights"]).tobytes())
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
