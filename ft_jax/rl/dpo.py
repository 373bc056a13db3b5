"""Direct preference optimization and the losses that vary it."""

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import nearest
from ft_jax.rl.pair_losses import LOSSES
from ft_jax.rl.pairs import against_shuffled_words, preference


@register(
    "rl",
    paper="Rafailov et al. 2023, arXiv:2305.18290, equation 7; the sft term is Pang et al. 2024, arXiv:2404.19733",
    needs=("chosen", "rejected"),
    example=lambda problem: dpo(sft=0.0),
    batch=against_shuffled_words,
    neutral=Neutral({"weight": 0.0, "sft": 1.0}, batch=lambda batch: batch["chosen"]),
)
def dpo(
    beta: float = 0.1,
    weight: float = 1.0,
    sft: float | None = None,
    *,
    loss: str = "sigmoid",
    smoothing: float | None = None,
    reference: str = "start",
    term: str = "task",
    name: str = "rl.dpo",
) -> Method:
    """Makes chosen answers likelier than rejected ones, relative to a reference policy.

    Adds the term ``weight · mean(loss(pair))``. DPO's is ``-log_sigmoid(reward(chosen) - reward(rejected))`` with
    ``reward(answer) = beta · (log p(answer) - log p_reference(answer))``, where ``log p(answer)`` is the sum of
    ``weights · log p(label)`` over its tokens; the others are in `ft_jax.rl.pair_losses` with their formulas.

    The batch is ``{"chosen": fields, "rejected": fields}``, each with ``input_ids``, ``labels`` and
    ``weights`` ``[pairs, time]``, 0 on the prompt. The loss inside is called once on both with the rejected
    answers' weights at 0, so its terms are those of the chosen; outputs and predictions are the chosen's.
    Each pair's rewards are in the outputs' states, see `margins`. Evaluation passes a batch of plain
    examples on to the loss inside. A pair whose chosen answer has no token counts nothing.

    Several losses at once are a composition, each with its own weight and name: ``compose(dpo(loss="hinge",
    name="rl.hinge", reference="given"), dpo(weight=0.8))``; the forward passes are shared.

    Args:
      beta: how far the policy may move from the reference; smaller is freer.
      weight: of the preference term.
      sft: multiplies the term `term` of the loss inside, the chosen answers' mean cross-entropy. None takes the
        term out, and nothing of it is computed; 0 keeps it as a number that can be raised.
      loss: ``"sigmoid"`` (DPO), ``"length_normalised"``, ``"hinge"``, ``"ipo"``, ``"robust"``, ``"exo"``, ``"nca"``,
        ``"bco"``, ``"sppo"``, ``"apo_zero"``, ``"apo_down"``, ``"discopop"``, ``"aot"`` or ``"aot_unpaired"``.
      smoothing: the share of preferences taken to be wrong, for the losses that have one: robust, exo, aot.
      reference: ``"start"`` is a snapshot, in memory, of what learns at the start, over the same frozen base: with
        LoRA it costs the size of the adapter. ``"given"`` takes the log-probabilities from the sides' field
        ``reference`` ``[pairs]``, computed once by `ft_jax.rl.with_references`, or those of a preference loss inside.
      term: the name of that term; terms of methods inside are left as they are.
      name: the method's name; ``memory[name]`` is like the tree that learns.

    Raises:
      KeyError: when training on a batch without ``chosen`` and ``rejected``.
      ValueError: an unknown loss, a smoothing it does not take, labels that are not of tokens, or sides of different
        shapes.

    Example:
      >>> dpo(beta=0.3).hyper
      {'beta': 0.3, 'weight': 1.0}
      >>> dpo(loss="robust", smoothing=0.2).hyper
      {'beta': 0.1, 'smoothing': 0.2, 'weight': 1.0}
    """
    if loss not in LOSSES:
        raise ValueError(f"{name} has no loss {loss!r}; the nearest are {nearest(loss, LOSSES)}")
    kind = LOSSES[loss]
    numbers = {"beta": beta, **kind.numbers}
    if smoothing is not None:
        if "smoothing" not in numbers:
            taking = ", ".join(other for other, one in LOSSES.items() if "smoothing" in one.numbers)
            raise ValueError(f"{name} with loss={loss!r} takes no smoothing, got {smoothing}; {taking} do")
        numbers["smoothing"] = smoothing
    wrong = numbers.get("smoothing", 0.0)
    if not 0 <= wrong < 0.5 or (loss == "exo" and not wrong > 0):
        raise ValueError(
            f"{name} with loss={loss!r} has smoothing={wrong}; give a share of wrong preferences below 0.5"
            + (" and above 0" if loss == "exo" else "")
        )
    return preference(
        name, kind.value, numbers, weight=weight, likelihood=sft, term=term, reference=reference, couples=kind.couples,
        mean=loss in ("ipo", "length_normalised"),
    )  # fmt: skip
