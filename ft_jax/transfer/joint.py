"""Two losses on two streams of data, the backbone's and the head's, minimised together."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Loss, Method
from ft_jax.core.optimizers import scale_updates
from ft_jax.transfer.backbone import causal_language_modelling, seen_from, with_parameters
from ft_jax.transfer.depth import rates_of_parts
from ft_jax.transfer.unlabelled import LAYOUT, beside_itself, part, without_unlabelled


@register(
    "transfer",
    paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training, equation 5",
    example=lambda problem: joint(causal_language_modelling(problem.apply), weight=0.25, head_weight=0.5),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0, "head_weight": 1.0}, batch=without_unlabelled),
)
def joint(
    backbone: Loss,
    weight: float = 1.0,
    head_weight: float = 1.0,
    head_rate: float = 1.0,
    backbone_rate: float = 1.0,
    head: tuple[str, ...] = ("*/head/*",),
    *,
    name: str = "transfer.joint",
) -> Method:
    """Trains on the task's labels and, with the same weights, on a backbone loss over unlabelled data.

    The loss is ``head_weight · task + weight · backbone(batch["unlabelled"])``. The batch carries the labelled
    fields at its top and the unlabelled ones in its part ``"unlabelled"``, of a size of its own. Evaluation on
    batches without that part leaves the backbone's term out. Name it before (outside) methods that read the
    examples, such as distillation or replay.

    Args:
      backbone: a loss on the unlabelled part: `ft_jax.transfer.backbone.contrastive`,
        ``masked_language_modelling``, ``causal_language_modelling``, ``masked_image_modelling`` or your own ``(params,
        batch, context) -> (terms, outputs)``. Its ``hyper`` and ``parameters``, where it has them, become
        the method's.
      weight: of the backbone's term, named ``"backbone"``; data in ``hyper``, as are all numbers here.
      head_weight: of the task's term, named ``"task"``; other methods' terms keep their weight.
      head_rate: the head's learning rate as a multiple of the optimizer's.
      backbone_rate: that of the model's other leaves, adapters on them included.
      head: patterns of the head's leaves.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: two backbone terms; at init, a head rate other than 1 for a head that is not there.

    Example:
      >>> from ft_jax.transfer import contrastive
      >>> method = joint(contrastive(None, temperature=0.1), weight=0.3)
      >>> method.hyper["temperature"]
      0.1
    """
    head = (head,) if isinstance(head, str) else tuple(head)
    own = {"weight": weight, "head_weight": head_weight, "head_rate": head_rate, "backbone_rate": backbone_rate}
    numbers = getattr(backbone, "hyper", {})
    clash = sorted(set(own) & set(numbers))
    if clash:
        raise ValueError(f"{name} has a number {clash[0]!r} of its own; call the backbone loss's number another name")

    def loss(inner):
        def both(params, batch, context):
            terms, outputs = inner(params, batch, context)
            hyper = context.hyper[name]
            terms = scale_term(terms, "task", hyper["head_weight"])
            unlabelled = part(batch, context, name)
            if unlabelled is None:
                return terms, outputs
            if "backbone" in terms:
                raise ValueError(
                    f"{name} adds a term 'backbone', which the loss inside it has already; use one of them"
                )
            values, _ = backbone(params, unlabelled, seen_from(context, name))
            return {**terms, "backbone": hyper["weight"] * sum(values.values())}, outputs

        return both

    def surgery(params, key):
        if head_rate != 1.0:
            require(params, head, name)
        return with_parameters(params, backbone, name, key)

    def update(inner):
        def factors(updates, event):
            numbers = event.hyper[name]
            return rates_of_parts(updates, head, numbers["head_rate"], numbers["backbone_rate"])

        return scale_updates(inner, factors)

    return Method(
        name=name,
        hyper={**own, **numbers},
        surgery=surgery,
        loss=loss,
        update=update,
        gives=LAYOUT,
    )
