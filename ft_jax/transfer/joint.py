"""Two losses on two streams of data, the backbone's and the head's, minimised together."""

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Loss, Method
from ft_jax.core.optimizers import scale_updates
from ft_jax.transfer.backbone import causal_language_modelling


def _beside_itself(batch):
    """`batch` with its own examples ``[..., time]`` as the unlabelled ones, whatever its layout."""
    examples = batch
    while "labels" not in examples:
        examples = next(part for part in examples.values() if isinstance(part, dict))
    rows = {name: x.reshape(-1, x.shape[-1]) for name, x in examples.items() if not isinstance(x, dict)}
    return {**batch, "unlabelled": rows}


def _without_unlabelled(batch):
    return {field: value for field, value in batch.items() if field != "unlabelled"}


@register(
    "transfer",
    paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training, equation 5",
    kind=("loss", "update"),
    example=lambda problem: joint(causal_language_modelling(problem.apply), weight=0.25, head_weight=0.5),
    needs=("unlabelled",),
    batch=_beside_itself,
    neutral=Neutral({"weight": 0.0, "head_weight": 1.0}, batch=_without_unlabelled),
)
def joint(
    backbone: Loss,
    weight: float = 1.0,
    head_weight: float = 1.0,
    head_rate: float = 1.0,
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
        ``masked_language_modelling``, ``causal_language_modelling`` or your own ``(params, batch, context) ->
        (terms, outputs)``. Its ``couples`` and ``hyper``, where it has them, become the method's.
      weight: of the backbone's term, named ``"backbone"``; data in ``hyper``, as are all numbers here.
      head_weight: of the task's term, named ``"task"``; other methods' terms keep their weight.
      head_rate: the head's learning rate as a multiple of the optimizer's.
      head: patterns of the head's leaves.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: two backbone terms; at init, a head rate other than 1 for a head that is not there.

    Example:
      >>> from ft_jax.transfer import contrastive
      >>> method = joint(contrastive(None, temperature=0.1), weight=0.3)
      >>> method.couples, method.hyper["temperature"]
      (True, 0.1)
    """
    head = (head,) if isinstance(head, str) else tuple(head)
    own = {"weight": weight, "head_weight": head_weight, "head_rate": head_rate}
    numbers = getattr(backbone, "hyper", {})
    clash = sorted(set(own) & set(numbers))
    if clash:
        raise ValueError(f"{name} has a number {clash[0]!r} of its own; call the backbone loss's number another name")

    def loss(inner):
        def both(params, batch, context):
            terms, outputs = inner(params, batch, context)
            hyper, terms = context.hyper[name], dict(terms)
            if "task" in terms:
                terms["task"] = hyper["head_weight"] * terms["task"]
            if "unlabelled" not in batch:
                if context.train:
                    raise KeyError(
                        f"{name} trains its backbone on batch['unlabelled'], which the batch lacks (it has "
                        f"{', '.join(batch)}); give the data a stream of unlabelled examples"
                    )
                return terms, outputs
            if "backbone" in terms:
                raise ValueError(
                    f"{name} adds a term 'backbone', which the loss inside it has already; use one of them"
                )
            seen = context.replace(hyper={**context.hyper, "backbone": hyper})
            values, _ = backbone(params, batch["unlabelled"], seen)
            return {**terms, "backbone": hyper["weight"] * sum(values.values())}, outputs

        return both

    def surgery(params, key):
        if head_rate != 1.0:
            require(params, head, name)
        return params

    def update(inner):
        return scale_updates(inner, head, lambda hyper: hyper[name]["head_rate"])

    return Method(
        name=name,
        hyper={**own, **numbers},
        surgery=surgery,
        loss=loss,
        update=update,
        gives="examples beside unlabelled ones",
        couples=getattr(backbone, "couples", False),
    )
