"""Classes of examples, for methods whose memory is by class."""

import jax
import jax.numpy as jnp

from ft_jax.core.state import Batch
from ft_jax.incremental.examples import examples


def class_of(batch: Batch) -> jax.Array:
    """The class of every example ``[batch]``: of several labels the last that counts, -1 where none does.

    Args:
      batch: plain examples with ``labels`` ``[batch, ...]``, and perhaps ``weights``.

    Example:
      >>> class_of({"labels": jnp.array([[1, 2, -1], [3, 4, 5]]), "weights": jnp.array([1.0, 0.0])[:, None]}).tolist()
      [2, -1]
    """
    labels = batch["labels"]
    rows = labels.shape[0]
    labels = labels.reshape(rows, -1)
    weights = batch.get("weights", jnp.ones(labels.shape))
    weights = jnp.broadcast_to(weights.reshape(rows, -1), labels.shape)
    counts = (labels >= 0) & (weights > 0)
    last = labels.shape[1] - 1 - jnp.argmax(counts[:, ::-1], axis=1)
    return jnp.where(jnp.any(counts, axis=1), jnp.take_along_axis(labels, last[:, None], axis=1)[:, 0], -1)


def labelled(batch: Batch) -> Batch:
    """A batch whose examples have labels: it itself, or with its tokens as such.

    Example:
      >>> labelled({"input_ids": 7})
      {'input_ids': 7, 'labels': 7}
    """
    found = examples(batch, ("labels",))
    return {**batch, "labels": batch["input_ids"]} if found is None else found
