"""Training on the model's own first choices."""

from collections.abc import Callable

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.consistency import consistency, pseudo_label_loss
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled


@register(
    "transfer",
    paper="Lee 2013, Pseudo-Label (ICML workshop), equations 15 and 16",
    example=lambda problem: pseudo_labels(problem.apply, weight=0.2, threshold=0.05, begin=-1, end=1),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0}, batch=without_unlabelled),
)
def pseudo_labels(
    apply: Callable,
    weight: float = 1.0,
    threshold: float = 0.9,
    begin: float = 0.0,
    end: float = 0.0,
    *,
    name: str = "transfer.pseudo_labels",
) -> Method:
    """Takes the likeliest class of an unlabelled example as its label, where the model is sure of it.

    Adds ``ramp · weight · mean_x( 1(max p(x) >= threshold) · cross-entropy(argmax p(x), p(x)) )`` over
    ``batch["unlabelled"]``, with ``ramp = clip((step - begin) / (end - begin), 0, 1)``, equation 16: 0 before `begin`,
    1 from `end` on. The labels are made anew in each step by a pass without dropout. The mean is over all examples, so
    sparse confident ones weigh little. Evaluation leaves the term out.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      weight: α_f in the paper; data in ``hyper``, as are all numbers here.
      threshold: the least probability of a label; 0 takes every example, as the paper does.
      begin, end: steps between which the weight rises; T1 and T2 in the paper.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: a threshold outside 0 to 1, or an end before the beginning.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> pseudo_labels(apply, threshold=0.8, end=100).hyper
      {'weight': 1.0, 'threshold': 0.8, 'begin': 0.0, 'end': 100}
    """
    check_threshold(threshold, name)
    if end < begin:
        raise ValueError(f"{name} has its ramp from step {begin} to step {end}; put the end after the beginning")

    def value(params, batch, outputs, context):
        numbers, unlabelled = context.hyper[name], batch["unlabelled"]
        ramp = (context.step - numbers["begin"]) / jnp.maximum(numbers["end"] - numbers["begin"], 1e-6)
        return (
            jnp.clip(ramp, 0.0, 1.0)
            * numbers["weight"]
            * consistency(apply, params, unlabelled, context, pseudo_label_loss, numbers["threshold"], None, None, name)
        )

    hyper = {"weight": weight, "threshold": threshold, "begin": begin, "end": end}
    return Method(name=name, hyper=hyper, loss=adding(name, value, in_evaluation=False), gives=LAYOUT)


def check_threshold(threshold: float, name: str) -> None:
    """Raises ValueError on a threshold that is no probability."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"{name} has threshold {threshold}; give it a probability from 0 to 1, such as 0.9")
