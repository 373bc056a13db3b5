"""Losses of a backbone on unlabelled data, for `ft_jax.transfer.joint`.

Each is a plain loss of the core with two attributes a method may read: ``couples``, whether it compares the
examples of a batch, and ``hyper``, its tunable numbers, which it looks up in ``context.hyper["backbone"]``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.losses import supervised
from ft_jax.core.method import Loss
from ft_jax.core.outputs import pooled
from ft_jax.transfer.unlabelled import row_weights


def contrastive(apply: Callable, temperature: float = 0.05) -> Loss:
    """Unsupervised SimCSE: an example's two dropout views attract, the batch's other examples repel.

    Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", arXiv:2104.08821,
    equation 4, with ``z`` and ``z'`` the pooled hidden states of two passes under different dropout, in nats:
    ``mean_i( logsumexp_j(cos(z_i, z'_j) / temperature) - cos(z_i, z'_i) / temperature )``.
    Under pmap the sum over ``j`` runs over the batches of all devices. Examples whose ``weights`` are all 0 (rows that
    fill a batch up) are neither in the mean nor in the sum.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with dropout; hidden states ``[batch, width]``, or
        ``[batch, time, width]``, whose mean over real tokens is taken.
      temperature: of the similarities, data in the ``hyper`` of the method that takes this loss.

    Raises:
      ValueError: at trace time, when the whole batch is one example, which has nothing to repel.

    Example:
      >>> contrastive(None).couples
      True
    """

    def loss(params, batch, context):
        model, key = context.join(params)["model"], context.dropout_key
        first, second = (None, None) if key is None else jax.random.split(key)
        outputs = apply(model, batch, first)
        anchors = _unit(pooled(outputs, batch))
        positives = _unit(pooled(apply(model, batch, second), batch))
        counts = row_weights(batch)
        own, total, others = jnp.arange(anchors.shape[0]), jnp.sum(counts), counts
        if context.axis is not None:
            own = own + anchors.shape[0] * jax.lax.axis_index(context.axis)
            positives, others = jax.lax.all_gather((positives, counts), context.axis, tiled=True)
            total = jax.lax.pmean(total, context.axis)
        if positives.shape[0] == 1:
            raise ValueError("contrastive compares the examples of a batch, which has only 1; use at least 2")
        tau = context.hyper.get("backbone", loss.hyper)["temperature"]
        similarities = anchors @ positives.T / tau  # [batch, batch of all devices]
        matching = jnp.take_along_axis(similarities, own[:, None], axis=1)[:, 0]
        seen = (others > 0) | (jnp.arange(len(others)) == own[:, None])
        losses = jax.nn.logsumexp(jnp.where(seen, similarities, -jnp.inf), axis=1) - matching
        return {"backbone": jnp.sum(counts * losses) / jnp.maximum(total, 1e-9)}, outputs

    loss.couples = True
    loss.hyper = {"temperature": temperature}
    return loss


def _unit(x):
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))


def masked_language_modelling(apply: Callable) -> Loss:
    """Cross-entropy of the tokens hidden from the backbone.

    Devlin et al. 2018, "BERT", arXiv:1810.04805, section 3.1. The batch's ``input_ids`` have tokens masked by
    the data pipeline and its ``labels [batch, time]`` hold the original token there and -1 elsewhere.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with the vocabulary's unembedding.

    Raises:
      KeyError: at trace time, when the batch has no labels.

    Example:
      >>> masked_language_modelling(None).couples
      False
    """
    return _with_own_labels(apply, "masked_language_modelling", "the original token at masked places and -1 elsewhere")


def causal_language_modelling(apply: Callable) -> Loss:
    """Cross-entropy of each next token.

    Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1. The
    batch's ``labels [batch, time]`` are the targets of their positions, shifted by the data pipeline.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with the vocabulary's unembedding.

    Raises:
      KeyError: at trace time, when the batch has no labels.

    Example:
      >>> causal_language_modelling(None).couples
      False
    """
    return _with_own_labels(apply, "causal_language_modelling", "the next token of each place and -1 where none counts")


def _with_own_labels(apply, name: str, meaning: str) -> Loss:
    inner = supervised(apply, term="backbone")

    def loss(params, batch, context):
        if "labels" not in batch:
            raise KeyError(f"{name} reads 'labels' [batch, time], which the unlabelled batch lacks; give {meaning}")
        return inner(params, batch, context)

    loss.couples = False
    loss.hyper = {}
    return loss
