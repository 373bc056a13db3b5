"""Folds as a number of the state, so that members of one program each train without a fold of their own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import never


def _two_folds(batch):
    """The problem's batch as fold 0 sees it: its rows in order, all held out where it evaluates."""
    count = len(jax.tree.leaves(batch)[0])
    order = jnp.arange(count, dtype=jnp.int32)
    return {**batch, "rows": jnp.stack([order, order[::-1]], axis=1), "fold": jnp.zeros(count, jnp.int32)}


@register(
    "tuning",
    paper="Stone 1974, Cross-Validatory Choice and Assessment of Statistical Predictions, JRSS B 36(2)",
    needs=("rows", "fold"),
    example=lambda problem: cross_validation(problem.batch),
    batch=_two_folds,
    neutral="what it trains on are rows of its own data, whatever the number; tests hold each fold against a run of it",
)
def cross_validation(examples: Mapping[str, Any], fold: int = 0, *, name: str = "tuning.cross_validation") -> Method:
    """Trains without one fold and evaluates on it, where the fold is a number: members of a population have their own.

    The examples lie on the device once, beside the frozen base. A training batch is ``rows [batch, folds]``: whoever
    holds out fold ``f`` trains on ``examples[rows[:, f]]``, each counting as much as ``weights`` says where there are
    some. An evaluation batch is plain examples with ``fold [batch]``, the fold that each is held out in: those of
    other folds count nothing, and all do where there is no ``fold``. So the folds of many trials are members of one
    program, ``population({"tuning.cross_validation.fold": [0, 1, 2, 0, 1, 2], ...})``.

    Args:
      examples: fields ``[examples, ...]`` as the loss reads them.
      fold: the one that is held out, data in ``hyper``.
      name: the method's name.

    Raises:
      ValueError: fields of different lengths, or none.

    Example:
      >>> cross_validation({"x": jnp.zeros((6, 2)), "labels": jnp.zeros(6, jnp.int32)}).name
      'tuning.cross_validation'
    """
    examples = jax.tree.map(jnp.asarray, dict(examples))
    lengths = sorted({len(column) for column in jax.tree.leaves(examples)})
    if len(lengths) != 1:
        raise ValueError(f"{name} needs fields with a row for each example, got lengths {lengths}; make them equal")

    def surgery(params, key):
        return {**params, name: examples}

    def prepare(state, batch, context):
        mine = context.hyper[name]["fold"].astype(jnp.int32)
        if context.train:
            rows = batch["rows"][:, mine]
            mine = jax.tree.map(lambda column: column[rows], context.frozen[name])
            mine = mine if "weights" not in batch else _weighted(mine, batch["weights"])
            return state, {**batch, **mine}
        batch = {field: x for field, x in batch.items() if field != "rows"}
        if "fold" not in batch:
            return state, batch  # examples of no fold, such as a test set's, count for everybody
        held = (batch.pop("fold") == mine).astype(jnp.float32)
        return state, _weighted(batch, held)

    return Method(
        name=name,
        hyper={"fold": float(fold)},
        surgery=surgery,
        trainable=never(f"{name}/*"),
        prepare=prepare,
        gives="rows",
        reads="examples",
    )


def _weighted(batch, counted: jax.Array):
    """A batch whose examples or tokens, in every part, count so much as they do times `counted`."""
    parts = {field: _weighted(x, counted) for field, x in batch.items() if isinstance(x, Mapping)}
    if len(parts) == len(batch):
        return parts
    weights = batch.get("weights")
    if weights is None:
        weights = jnp.ones(batch["labels"].shape if "labels" in batch else counted.shape, jnp.float32)
    axes = max(weights.ndim, counted.ndim)
    spread = [x.reshape(x.shape + (1,) * (axes - x.ndim)) for x in (weights, counted)]
    return {**batch, **parts, "weights": spread[0] * spread[1]}
