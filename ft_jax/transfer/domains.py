"""Representations of a labelled batch (the source domain) and its unlabelled part (the target)."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from ft_jax.core.batches import rows, shares
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.state import Batch, Context
from ft_jax.transfer.unlabelled import plain

Domain = tuple[Float[Array, "batch width"], Float[Array, " batch"]]
"""Representations of examples, and how much each example counts."""


def both_domains(
    apply: Callable, params: Any, batch: Batch, outputs: Outputs, context: Context, name: str, on: str = "hidden"
) -> tuple[Domain, Domain]:
    """The source's representations, from the labelled batch's `outputs`, and the target's, by a pass of their own.

    Args:
      apply: the model's.
      params: the tree that learns.
      batch: with its part ``"unlabelled"``.
      outputs: of the labelled batch; where that is not of plain examples, they are passed through the model again.
      context: as a loss sees it.
      name: of the method, for dropout.
      on: ``"hidden"``, what the head reads (its mean over a text's tokens), or ``"logits"``.
    """
    drawing = context.drawing(name)
    target = batch["unlabelled"]
    source = plain({field: x for field, x in batch.items() if field != "unlabelled"})
    if "query" in batch or "chosen" in batch:
        outputs = drawing.drawing("source").run(apply, params, source)
    of_target = drawing.run(apply, params, target)
    return (
        (representation(outputs, source, on), shares(source, (rows(source),))),
        (representation(of_target, target, on), shares(target, (rows(target),))),
    )


def aligned(context: Context, distance: Callable, domains: tuple[Domain, Domain]) -> Float[Array, ""]:
    """``distance(source, target)`` of all examples of the whole batch, over devices and micro-batches."""
    (source, source_counts), (target, target_counts) = domains

    def apart(own, everyone, start, shared, own_counts, all_counts):
        return distance((everyone[0], all_counts[0]), (everyone[1], all_counts[1]))

    return context.couple(apart, (source, target), aligned=(source_counts, target_counts))


def representation(outputs: Outputs, batch: Batch, on: str = "hidden") -> Float[Array, "batch width"]:
    """One float32 vector an example: of hidden states, or of logits ``[batch, classes]``."""
    if on == "hidden":
        return pooled(outputs, batch)
    logits = outputs.logits
    return logits if logits.ndim == 2 else logits.mean(axis=1)


def check_on(on: str, name: str) -> None:
    """Raises ValueError on a representation that there is not."""
    if on not in ("hidden", "logits"):
        raise ValueError(f"{name} aligns {on!r}; give it 'hidden' or 'logits'")
