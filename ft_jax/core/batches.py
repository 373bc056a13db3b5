"""How much each example and each token of a batch counts, also where a batch is one shard of a larger one.

A batch is a mapping of fields ``[batch, ...]``; a field that is a mapping itself is a part with examples of its own
(``"unlabelled"``, ``"chosen"``). What counts is decided here and nowhere else: ``weights`` where they are given, labels
that are not negative, and tokens of the attention mask. What is padding counts nothing.

Micro-batches and devices hold shards that count different numbers of tokens. Before a batch is split, the step gives
every part its rows' *shares*: weights that add up, over the whole batch, to the number of its rows. On each shard
``Σ share · value / rows`` is then a number whose average over the shards is the whole batch's weighted mean.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import real_tokens

Batch = Mapping[str, Any]

SHARES = ("example_share", "token_share")
"""The fields that `with_shares` adds."""


def rows(batch: Batch) -> int:
    """How many rows a batch has.

    Raises:
      ValueError: an empty batch.

    Example:
      >>> rows({"chosen": {"x": jnp.zeros((3, 2))}})
      3
    """
    sizes = [x.shape[0] for x in jax.tree.leaves(dict(batch)) if jnp.ndim(x)]
    if not sizes:
        raise ValueError("a batch has no field with examples; give it at least one array [batch, ...]")
    return sizes[0]


def stacked(batches: Any) -> Batch:
    """Batches as one, fields ``[count, batch, ...]``: a list of them, or what is so already.

    Raises:
      ValueError: an empty list, or batches of different fields or shapes.

    Example:
      >>> stacked([{"x": jnp.zeros(3)}, {"x": jnp.ones(3)}])["x"].shape
      (2, 3)
    """
    if isinstance(batches, Mapping):
        return batches
    batches = [dict(batch) for batch in batches]
    shapes = [jax.tree.map(jnp.shape, batch) for batch in batches]
    if not batches or any(shape != shapes[0] for shape in shapes):
        told = next((f"{shapes[0]} and {shape}" for shape in shapes if shape != shapes[0]), "none")
        raise ValueError(f"the batches of a task are of one shape, and these are {told}; pad them to one length")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


def named(batch: Batch) -> str:
    """The fields of a batch as its user knows them, for error messages.

    Example:
      >>> named({"x": 0, "example_share": 0, "labels": 0})
      'labels, x'
    """
    return ", ".join(sorted(field for field in batch if field not in SHARES))


def example_weights(batch: Batch) -> Float[Array, " batch"]:
    """How much each example counts: its ``weights``, and 0 where no token or label of it does.

    Weights of tokens ``[batch, time]`` say whether an example counts, not how much. Of a batch made of parts alone an
    example counts where it does in every part.

    Example:
      >>> example_weights({"labels": jnp.array([2, -1]), "weights": jnp.array([0.5, 1.0])}).tolist()
      [0.5, 0.0]
      >>> example_weights({"labels": jnp.array([[3, -1], [-1, -1]])}).tolist()
      [1.0, 0.0]
    """
    own = {field: x for field, x in batch.items() if not isinstance(x, Mapping)}
    if not own:
        return jnp.stack([example_weights(x) for x in batch.values()]).min(axis=0)
    counted = jnp.ones(rows(own), jnp.float32)
    if "weights" in own:
        weights = own["weights"].astype(jnp.float32)
        counted = weights if weights.ndim == 1 else _any(weights > 0)
    if "labels" in own and jnp.issubdtype(own["labels"].dtype, jnp.integer):
        counted *= _any(own["labels"] >= 0)
    real = real_tokens(own)
    return counted if real is None else counted * _any(real > 0)


def token_weights(batch: Batch) -> Float[Array, "batch time"] | None:
    """How much each token counts; None where the examples are not made of tokens.

    ``weights [batch, time]`` or an example's own weight, 0 at negative labels, and where no weights of tokens are given
    0 outside the attention mask.

    Example:
      >>> token_weights({"input_ids": jnp.ones((1, 3)), "attention_mask": jnp.array([[1, 1, 0]])}).tolist()
      [[1.0, 1.0, 0.0]]
    """
    shape = token_axis(batch)
    if shape is None:
        return None
    weights = batch.get("weights")
    if weights is not None and weights.shape == shape:
        counted = weights.astype(jnp.float32)
    else:
        counted = jnp.ones(shape, jnp.float32)
        if weights is not None and weights.ndim == 1:
            counted *= weights[:, None]
        real = real_tokens(batch)
        if real is not None and real.shape == shape:
            counted *= real > 0
    labels = batch.get("labels")
    if labels is not None and labels.shape == shape and jnp.issubdtype(labels.dtype, jnp.integer):
        counted = jnp.where(labels >= 0, counted, 0.0)
    return counted


def counted(batch: Batch) -> Float[Array, "batch ..."]:
    """How much each of a batch's labels counts, or each example where it has none."""
    labels = batch.get("labels")
    classes = labels is not None and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.integer)
    tokens = token_weights(batch) if classes else None
    return example_weights(batch) if tokens is None or tokens.shape != labels.shape else tokens


def token_axis(batch: Batch) -> tuple[int, int] | None:
    """``(batch, time)`` of the tokens, or None without any."""
    for field in ("input_ids", "attention_mask", "segment_ids"):
        if field in batch and batch[field].ndim == 2:
            return batch[field].shape
    labels, weights = batch.get("labels"), batch.get("weights")
    if labels is not None and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.integer):
        return labels.shape
    return weights.shape if weights is not None and weights.ndim == 2 else None


def _any(flags) -> Float[Array, " batch"]:
    return jnp.any(flags.reshape(flags.shape[0], -1), axis=1).astype(jnp.float32)


def with_shares(batch: Batch, axis: str | None = None) -> Batch:
    """`batch` with the shares of every part's examples and tokens.

    Args:
      batch: this device's rows of the whole batch.
      axis: the mapped device axis over which the whole batch lies, or None.

    Example:
      >>> with_shares({"x": jnp.zeros((2, 1)), "weights": jnp.array([3.0, 1.0])})["example_share"].tolist()
      [1.5, 0.5]
    """
    found = {field: with_shares(x, axis) if isinstance(x, Mapping) else x for field, x in batch.items()}
    if all(isinstance(x, Mapping) for x in batch.values()):
        return found
    found["example_share"] = _normalised(example_weights(batch), axis)
    tokens = token_weights(batch)
    return found if tokens is None else {**found, "token_share": _normalised(tokens, axis)}


def without_shares(batch: Batch) -> Batch:
    """`batch` as it was before `with_shares`: for examples that are a batch of their own, such as a task's."""
    return {
        field: without_shares(x) if isinstance(x, Mapping) else x for field, x in batch.items() if field not in SHARES
    }


def summed(batch: Batch) -> Batch:
    """`batch` with shares that make every mean over its examples or tokens a weighted sum."""
    count = rows(batch)
    found = {**without_shares(batch), "example_share": count * example_weights(batch)}
    tokens = token_weights(batch)
    return found if tokens is None else {**found, "token_share": count * tokens}


def scaled(batch: Batch, factors: Float[Array, "batch time"]) -> Batch:
    """`batch` whose tokens count `factors` times as much as they did.

    For methods that move weight among the tokens of a shard; what changes the weight of the whole belongs into
    `ft_jax.core.method.Method.prepare`.
    """
    found = {**batch, "weights": token_weights(batch) * factors}
    return {**found, "token_share": batch["token_share"] * factors} if "token_share" in batch else found


def shares(batch: Batch, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    """The share of every position of outputs of shape `shape`, ``(batch,)`` or ``(batch, time)``.

    ``Σ shares · value / rows`` is the weighted mean. A batch that the step has not seen is taken as a whole one.
    Positions that are no tokens (patches of an image) share their example's equally.

    Example:
      >>> shares({"labels": jnp.array([0, 1, -1])}, (3,)).tolist()
      [1.5, 1.5, 0.0]
    """
    if "example_share" not in batch:
        batch = with_shares(batch)
    tokens = batch.get("token_share")
    if tokens is not None and tokens.shape == tuple(shape):
        return tokens
    examples = batch["example_share"] if "example_share" in batch else _normalised(example_weights(batch), None)
    if len(shape) == 1:
        return examples
    return jnp.broadcast_to(examples.reshape(-1, *(1,) * (len(shape) - 1)) / _size(shape[1:]), shape)


def weighted_mean(values: Float[Array, "batch ..."], batch: Batch) -> Float[Array, ""]:
    """The mean of one value an example or a token over all that count in the whole batch.

    Example:
      >>> float(weighted_mean(jnp.array([1.0, 3.0, 9.0]), {"labels": jnp.array([0, 0, -1])}))
      2.0
    """
    own = shares(batch, values.shape)
    return jnp.sum(jnp.where(own != 0, own * values, 0.0)) / values.shape[0]


def divisor(weights) -> Float[Array, ""]:
    """The sum of weights, or 1 where nothing counts, so that an empty mean is 0 and not NaN."""
    return _or_one(jnp.sum(weights))


def _or_one(total):
    return jnp.where(total > 0, total, 1.0)


def _normalised(weights, axis: str | None):
    total, count = jnp.sum(weights), weights.shape[0]
    if axis is not None:
        # The mean of the devices' sums over each device's rows is the whole's sum over the whole's rows.
        total = jax.lax.pmean(total, axis)
    return weights * count / _or_one(total)


def _size(shape) -> int:
    size = 1
    for one in shape:
        size *= one
    return size
