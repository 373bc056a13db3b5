"""Losses whose targets are numbers: squared error for regressions, binary cross-entropy for several classes at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import weighted_mean
from ft_jax.core.method import Loss
from ft_jax.core.outputs import Outputs


def predicted(outputs: Outputs, labels: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """A head's outputs in the shape of the labels: of a head with one output that axis is left out where labels do.

    Raises:
      ValueError: they don't fit.
    """
    logits = outputs.logits.astype(jnp.float32)
    if logits.shape == labels.shape:
        return logits
    if logits.shape == (*labels.shape, 1):
        return logits[..., 0]
    raise ValueError(
        f"labels have shape {labels.shape} and the head gives {logits.shape}; give one number for each of its outputs"
    )


def squared_error(apply, term: str = "task") -> Loss:
    """Mean squared error of a head's outputs and ``batch["labels"]``, for a regression.

    ``Σ share · mean_k (outputs_k - labels_k)² / rows``, the mean over all examples (or tokens) that count.

    Args:
      apply: ``(params, batch, key) -> Outputs``, with a head; labels are ``[batch]`` for one output, or
        ``[batch, outputs]``; of tokens ``[batch, time]``.
      term: the name of the loss's only term.

    Example:
      >>> import optax
      >>> from ft_jax.core import make_step
      >>> def apply(params, batch, key=None):
      ...     return Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> program = make_step(squared_error(apply), optax.sgd(0.1))
      >>> state = program.init({"w": jnp.ones((2, 1))}, jax.random.key(0))
      >>> batch = {"x": jnp.ones((2, 2)), "labels": jnp.array([1.0, -1.0])}
      >>> float(program.step(state, batch)[1]["loss"])
      5.0
    """

    def loss(params, batch, context):
        outputs = context.run(apply, params, batch)
        labels = batch["labels"].astype(jnp.float32)
        return {
            term: weighted_mean(_over_outputs(jnp.square(predicted(outputs, labels) - labels), batch), batch)
        }, outputs

    return loss


def binary_cross_entropy(apply, term: str = "task") -> Loss:
    """Cross-entropy of every class by itself, for examples that can have several: ``batch["labels"]`` from 0 to 1.

    ``Σ share · mean_k (log(1 + exp(logits_k)) - labels_k · logits_k) / rows``, in nats.

    Args:
      apply: ``(params, batch, key) -> Outputs``, with a head; labels are ``[batch, classes]``.
      term: the name of the loss's only term.

    Example:
      >>> import optax
      >>> from ft_jax.core import make_step
      >>> def apply(params, batch, key=None):
      ...     return Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> program = make_step(binary_cross_entropy(apply), optax.sgd(0.1))
      >>> state = program.init({"w": jnp.zeros((2, 3))}, jax.random.key(0))
      >>> batch = {"x": jnp.ones((2, 2)), "labels": jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
      >>> round(float(program.step(state, batch)[1]["loss"]), 4)
      0.6931
    """

    def loss(params, batch, context):
        outputs = context.run(apply, params, batch)
        labels = batch["labels"].astype(jnp.float32)
        logits = predicted(outputs, labels)
        return {term: weighted_mean(_over_outputs(jax.nn.softplus(logits) - labels * logits, batch), batch)}, outputs

    return loss


def _over_outputs(values, batch):
    """The mean over a head's outputs, where each example has several."""
    tokens = "input_ids" in batch and values.shape == batch["input_ids"].shape and batch["labels"].ndim == 2
    return values if values.ndim == 1 or tokens else jnp.mean(values, axis=-1)
