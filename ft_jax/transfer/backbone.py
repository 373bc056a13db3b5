"""Losses of a backbone on unlabelled data, for `ft_jax.transfer.joint`.

Each is a plain loss of the core with attributes a method may read: ``couples``, whether it compares the examples of a
batch; ``hyper``, its tunable numbers, which it looks up in ``context.hyper["backbone"]``; and, where it learns
something of its own, ``parameters``, ``key -> tree``, which it looks up as ``context.join(params)["backbone"]``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.batches import shares
from ft_jax.core.losses import supervised
from ft_jax.core.method import Loss
from ft_jax.core.outputs import pooled
from ft_jax.core.params import Params
from ft_jax.core.state import Context
from ft_jax.data.augmentation import Augmentation, augmented


def with_parameters(params: Params, backbone: Loss, name: str, key: jax.Array) -> Params:
    """`params` with the backbone loss's own parameters, where it has some, as those of the method called `name`."""
    return {**params, name: backbone.parameters(key)} if hasattr(backbone, "parameters") else params


def seen_from(context: Context, name: str) -> Context:
    """`context` as the backbone loss of the method called `name` sees it: the method's numbers and parameters there."""

    def view(params, own):
        whole = context.view(params, own)
        return {**whole, "backbone": whole[name]} if name in whole else whole

    return context.replace(hyper={**context.hyper, "backbone": context.hyper[name]}, view=view)


def contrastive(apply: Callable, temperature: float = 0.05, augmentation: Augmentation | None = None) -> Loss:
    """Unsupervised SimCSE: an example's two dropout views attract, the batch's other examples repel.

    With an `augmentation` the views differ by it too, as in SimCLR (Chen et al. 2020, arXiv:2002.05709, section 2.1).

    Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", arXiv:2104.08821,
    equation 4, with ``z`` and ``z'`` the pooled hidden states of two passes under different dropout, in nats:
    ``mean_i( logsumexp_j(cos(z_i, z'_j) / temperature) - cos(z_i, z'_i) / temperature )``.
    The sum over ``j`` runs over the whole batch, of all devices and micro-batches. Padding is neither in the mean nor
    in the sum.

    Args:
      apply: ``(params, batch, key) -> Outputs`` with dropout; hidden states ``[batch, width]``, or
        ``[batch, time, width]``, whose mean over real tokens is taken.
      temperature: of the similarities, data in the ``hyper`` of the method that takes this loss.
      augmentation: alters each view in training, see `ft_jax.data.augment_images` and `ft_jax.data.augment_text`.

    Raises:
      ValueError: at trace time, when the whole batch is one example, which has nothing to repel.

    Example:
      >>> contrastive(None).couples
      True
    """

    def loss(params, batch, context):
        one, other = batch, batch
        if augmentation is not None and context.train:
            drawn = context.key_for("contrastive")
            one, other = (augmented(augmentation, jax.random.fold_in(drawn, i), batch) for i in (0, 1))
        outputs = context.drawing("one view").run(apply, params, one)
        anchors = _unit(pooled(outputs, one))
        positives = _unit(pooled(context.drawing("the other view").run(apply, params, other), other))
        tau = context.hyper.get("backbone", loss.hyper)["temperature"]
        counts = shares(batch, anchors.shape[:1])
        return {"backbone": context.couple(views_attract, (anchors, positives), tau, counts)}, outputs

    loss.couples = True
    loss.hyper = {"temperature": temperature}
    return loss


def views_attract(own, everyone, start, temperature, counts, all_counts):
    """SimCSE's loss of this device's anchors against all devices' positives, see `contrastive`."""
    anchors, positives = own[0], everyone[1]
    if positives.shape[0] == 1:
        raise ValueError("contrastive compares the examples of a batch, which has only 1; use at least 2")
    place = start + jnp.arange(anchors.shape[0])
    similarities = anchors @ positives.T / temperature  # [batch, batch of all devices]
    matching = jnp.take_along_axis(similarities, place[:, None], axis=1)[:, 0]
    seen = (all_counts > 0) | (jnp.arange(len(all_counts)) == place[:, None])
    losses = jax.nn.logsumexp(jnp.where(seen, similarities, -jnp.inf), axis=1) - matching
    return jnp.mean(counts * losses) / jnp.maximum(jnp.mean(all_counts), 1e-9)


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
