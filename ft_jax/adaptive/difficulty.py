"""Examples weighed by how hard they are for the model as it is."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import counted, named, token_weights, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term, token_log_probabilities
from ft_jax.core.method import Loss, Method
from ft_jax.core.outputs import Outputs
from ft_jax.core.state import Batch


def label_losses(outputs: Outputs, batch: Batch, name: str) -> Float[Array, "batch ..."]:
    """The cross-entropy of every label, nats, ``[batch]`` or ``[batch, time]``; of one that does not count, anything.

    Raises:
      KeyError: a batch without labels.
      ValueError: labels of another shape than the outputs.
    """
    if "labels" not in batch:
        raise KeyError(f"{name} reads 'labels', and the batch has {named(batch)}; add them")
    labels = batch["labels"]
    if labels.shape != outputs.hidden.shape[:-1]:
        raise ValueError(
            f"{name} weighs one label a row of outputs, but labels are {list(labels.shape)} and outputs "
            f"{list(outputs.hidden.shape[:-1])}; give a model with an output for each label"
        )
    labels = jnp.maximum(labels, 0)
    if labels.ndim == 2:
        return -token_log_probabilities(outputs, labels)
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs.logits), labels[:, None], axis=-1)[:, 0]


def example_losses(losses: Array, batch: Batch) -> Float[Array, " batch"]:
    """The mean of an example's losses over those of its tokens that count."""
    if losses.ndim == 1:
        return losses
    weights = token_weights(batch)
    weights = jnp.ones_like(losses) if weights is None else weights
    return jnp.sum(weights * losses, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1e-9)


def _in_place_of(term: str, name: str, judge: Callable) -> Callable[[Loss], Loss]:
    """A loss transform that puts the mean of ``judge(losses, batch, hyper)`` in the place of a cross-entropy term."""

    def loss(inner):
        def judged(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if not context.train:
                return terms, outputs
            values = judge(label_losses(outputs, batch, name), batch, context)
            return {**scale_term(terms, term, None), term: weighted_mean(values, batch)}, outputs

        return judged

    return loss


@register(
    "adaptive",
    paper="Lin et al. 2017, arXiv:1708.02002, equations 4 and 5",
    needs=("labels",),
    example=lambda problem: focal(),
    neutral=Neutral({"gamma": 0.0}),
)
def focal(
    gamma: float = 2.0, alpha: tuple[float, ...] | None = None, *, term: str = "task", name: str = "adaptive.focal"
) -> Method:
    """Focal loss: what is classified well already counts little, so that many easy examples don't drown the rare.

    Puts ``mean(α[label] · (1 - p(label))^γ · -log p(label))`` in the place of the cross-entropy `term`; the factor is
    differentiated too. Evaluations keep the cross-entropy.

    Args:
      gamma: γ, data in ``hyper``; 2 is the paper's best, 0 is cross-entropy.
      alpha: a factor for each class; None for 1.
      term: that it replaces.
      name: the method's name.

    Raises:
      ValueError: a negative γ or factor; in training, labels that are not one a row of outputs, or another number of
        classes than factors.
      KeyError: when training on a batch without labels.

    Example:
      >>> focal(gamma=1.0).hyper
      {'gamma': 1.0}
    """
    if gamma < 0 or min(alpha or (0.0,)) < 0:
        raise ValueError(f"{name} has gamma {gamma} and alpha {alpha}; give numbers of at least 0")

    def judge(losses, batch, context):
        # (1 - p)^γ by logarithms: at p = 1 its gradient would be 0 · ∞.
        likely = jnp.log(jnp.maximum(-jnp.expm1(-losses), 1e-7))
        rescaled = jnp.exp(context.hyper[name]["gamma"] * likely) * losses
        if alpha is None:
            return rescaled
        return rescaled * jnp.asarray(alpha, jnp.float32)[jnp.maximum(batch["labels"], 0)]

    return Method(name=name, hyper={"gamma": gamma}, loss=_in_place_of(term, name, judge), reads="examples")


@register(
    "adaptive",
    paper="Kumar, Packer and Koller 2010, Self-paced learning for latent variable models, equation 4",
    needs=("labels",),
    example=lambda problem: self_paced(3.5),
    neutral=Neutral({"threshold": 1e30}),
)
def self_paced(
    threshold: float, growth: float = 1.0, *, term: str = "task", name: str = "adaptive.self_paced"
) -> Method:
    """Self-paced learning: examples count once their loss is below a threshold that rises.

    Puts ``mean(v · loss)`` in the place of the cross-entropy `term`, ``v = 1`` where an example's loss (the mean of its
    tokens') is below ``threshold · growth^step`` and 0 elsewhere: the minimum over v of the paper's ``v · loss - v /
    K``, with K the inverse of the threshold. The mean is over all examples, those left out too. Evaluations keep the
    cross-entropy.

    Args:
      threshold: nats, at the first step; data in ``hyper``, as is `growth`.
      growth: the factor of every step; the paper's 1.3 a pass over the data is ``1.3 ** (1 / steps of a pass)``.
      term: that it replaces.
      name: the method's name.

    Raises:
      ValueError: a threshold that is not positive, or a growth below 1; labels as in `focal`.
      KeyError: when training on a batch without labels.

    Example:
      >>> self_paced(0.7, growth=1.001).hyper
      {'threshold': 0.7, 'growth': 1.001}
    """
    if not threshold > 0 or growth < 1:
        raise ValueError(
            f"{name} has threshold {threshold} and growth {growth}; give a threshold above 0 and a growth of at least 1"
        )

    def judge(losses, batch, context):
        numbers = context.hyper[name]
        most = numbers["threshold"] * jnp.power(numbers["growth"], context.step.astype(jnp.float32))
        kept = example_losses(jax.lax.stop_gradient(losses), batch) < most
        return losses * kept.astype(losses.dtype).reshape(-1, *(1,) * (losses.ndim - 1))

    hyper = {"threshold": threshold, "growth": growth}
    return Method(name=name, hyper=hyper, loss=_in_place_of(term, name, judge), reads="examples")


@register(
    "adaptive",
    paper="Shrivastava, Gupta and Girshick 2016, arXiv:1604.03540, section 4; Fan et al. 2017, arXiv:1705.08826, "
    "equation 2",
    needs=("labels",),
    example=lambda problem: hard_examples(problem.apply, 0.5),
    neutral=Neutral({"keep": 1.0}),
)
def hard_examples(apply: Callable, keep: float = 0.5, *, name: str = "adaptive.hard_examples") -> Method:
    """Online hard-example mining: of every batch the examples with the largest losses are trained on.

    The ``keep`` share of the whole batch's examples that count, those with the largest loss (the mean of an example's
    tokens') and all that equal the last of them, keep their weights and the others get 0, so that every loss of the
    composition is a mean over the hard ones: the average top-k loss. It takes one forward pass without dropout more.

    Args:
      apply: the network, ``(params, batch, key) -> Outputs``.
      keep: the share, in ``hyper``; 1 keeps all.
      name: the method's name.

    Raises:
      ValueError: a share that is not in (0, 1]; labels as in `focal`.
      KeyError: when training on a batch without labels.

    Example:
      >>> hard_examples(lambda params, batch, key: None, 0.25).hyper
      {'keep': 0.25}
    """
    if not 0 < keep <= 1:
        raise ValueError(f"{name} has keep {keep}; give the share of examples to train on, above 0 and at most 1")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        outputs = context.replace(train=False).run(apply, state.params, batch)
        losses = example_losses(label_losses(outputs, batch, name), batch)
        weights = counted(batch)
        real = jnp.any(weights.reshape(weights.shape[0], -1) > 0, axis=1)
        ranked = jnp.where(real, losses, -jnp.inf)
        if context.axis is not None:
            ranked = jax.lax.all_gather(ranked, context.axis, tiled=True)
        count = jnp.ceil(context.hyper[name]["keep"] * jnp.sum(ranked > -jnp.inf)).astype(jnp.int32)
        least = jnp.sort(ranked)[::-1][jnp.maximum(count - 1, 0)]
        kept = (losses >= least).astype(jnp.float32).reshape(-1, *(1,) * (weights.ndim - 1))
        return state, {**batch, "weights": weights * kept}

    return Method(name=name, hyper={"keep": keep}, prepare=prepare, reads="examples")
