"""Pseudo-labels of weakly altered examples, learned on strongly altered ones."""

from collections.abc import Callable

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.data.augment_text import hide_tokens
from ft_jax.data.augmentation import Augmentation
from ft_jax.transfer.consistency import consistency, pseudo_label_loss
from ft_jax.transfer.pseudo_labels import check_threshold
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled


@register(
    "transfer",
    paper="Sohn et al. 2020, arXiv:2001.07685, equation 4",
    example=lambda problem: fixmatch(problem.apply, hide_tokens(0.3), weight=0.2, threshold=0.05),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0}, batch=without_unlabelled),
)
def fixmatch(
    apply: Callable,
    strong: Augmentation,
    weak: Augmentation | None = None,
    weight: float = 1.0,
    threshold: float = 0.95,
    *,
    name: str = "transfer.fixmatch",
) -> Method:
    """The label that a model is sure of for an example must also come out when the example is strongly altered.

    Adds ``weight · mean_x( 1(max q >= threshold) · cross-entropy(argmax q, p(strong(x))) )`` over
    ``batch["unlabelled"]``, with ``q = p(weak(x))`` by a pass without dropout or gradient. Evaluation leaves the term
    out.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      strong: an augmentation, see `ft_jax.data.augment_text` and `ft_jax.data.augment_images`.
      weak: another; None sees the examples as they are.
      weight: λ_u in the paper; data in ``hyper``, as is `threshold`.
      threshold: the least probability of a label; τ in the paper.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: a threshold outside 0 to 1.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> fixmatch(apply, hide_tokens(0.3), threshold=0.9).hyper
      {'weight': 1.0, 'threshold': 0.9}
    """
    check_threshold(threshold, name)

    def value(params, batch, outputs, context):
        numbers, unlabelled = context.hyper[name], batch["unlabelled"]
        return numbers["weight"] * consistency(
            apply, params, unlabelled, context, pseudo_label_loss, numbers["threshold"], weak, strong, name
        )

    loss = adding(name, value, in_evaluation=False)
    return Method(name=name, hyper={"weight": weight, "threshold": threshold}, loss=loss, gives=LAYOUT)
