"""One network on both sides of a pair: losses of embeddings, and what they are measured by."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ft_jax.core import Loss, Outputs
from ft_jax.core.batches import shares, weighted_mean
from ft_jax.core.outputs import pooled
from ft_jax.multimodal.clip import contrastive_rows

PAIRED = "paired"
"""The part of a batch that holds the other side of each pair, and the state of an output that is its embedding."""

SCALE = 20.0
"""Of cosines before the softmax, as sentence-transformers has it."""


def told_apart(apply, term: str = "task", scale: float = SCALE) -> Loss:
    """Each text's pair is told from the pairs of the other texts of the batch, in both directions.

    ``mean_i(-log softmax_j(scale · cos(x_i, y_j))[i] - log softmax_j(scale · cos(y_i, x_j))[i]) / 2`` in nats, over the
    whole batch of all devices and micro-batches: the multiple negatives ranking loss of Henderson et al. 2017,
    arXiv:1705.00652, section 4.4, with cosines and both ways.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with one vector an example; it sees both sides.
      term: the name of the loss's only term.
      scale: of the cosines.
    """

    def loss(params, batch, context):
        x, y, outputs = both_sides(apply, params, batch, context)
        counts = jnp.minimum(shares(batch, x.shape[:1]), shares(batch[PAIRED], y.shape[:1]))
        return {term: context.couple(contrastive_rows, (x, y), jnp.float32(scale), counts)}, outputs

    return loss


def similarity_error(apply, term: str = "task") -> Loss:
    """The mean squared error of ``cos(x, y)`` and ``batch["labels"]`` from -1 to 1.

    Reimers and Gurevych 2019, arXiv:1908.10084, section 3, the regression objective.

    Args:
      apply, term: as in `told_apart`.
    """

    def loss(params, batch, context):
        x, y, outputs = both_sides(apply, params, batch, context)
        error = jnp.square(jnp.sum(x * y, axis=-1) - batch["labels"].astype(jnp.float32))
        return {term: weighted_mean(error, batch)}, outputs

    return loss


def both_sides(apply, params, batch, context):
    """``(x, y, outputs)``: unit embeddings ``[batch, width]`` of both sides, and the first side's outputs with them."""
    outputs = context.run(apply, params, {name: field for name, field in batch.items() if name != PAIRED})
    other = context.drawing(PAIRED).run(apply, params, batch[PAIRED])
    x, y = _unit(pooled(outputs, batch)), _unit(pooled(other, batch[PAIRED]))
    return x, y, dataclasses.replace(outputs, states={**outputs.states, PAIRED: jnp.stack([x, y], axis=1)})


def _unit(x):
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def embeddings(outputs: Outputs, batch) -> jnp.ndarray:
    """Both sides' embeddings ``[batch, 2, width]``, what an evaluation keeps of pairs."""
    return outputs.states[PAIRED]


def _real(predictions, batch) -> np.ndarray:
    weights = batch.get("weights")
    return predictions if weights is None else predictions[np.asarray(weights) > 0]


def retrieved(predictions: np.ndarray, batch) -> float:
    """The share of texts whose pair is the nearest of all pairs of the set, recall at 1."""
    sides = _real(predictions, batch)
    return float(np.mean(np.argmax(sides[:, 0] @ sides[:, 1].T, axis=1) == np.arange(len(sides))))


def rank_correlation(predictions: np.ndarray, batch) -> float:
    """Spearman's correlation of cosines and scores."""
    from scipy.stats import spearmanr

    weights = batch.get("weights")
    kept = slice(None) if weights is None else np.asarray(weights) > 0
    cosines = np.sum(predictions[:, 0] * predictions[:, 1], axis=-1)
    return float(spearmanr(cosines[kept], np.asarray(batch["labels"])[kept]).statistic)
