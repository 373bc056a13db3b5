"""Representations of a labelled batch (the source domain) and its unlabelled part (the target)."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.params import digest
from ft_jax.core.state import Batch, Context
from ft_jax.transfer.unlabelled import plain, row_weights

Domain = tuple[Float[Array, "batch width"], Float[Array, " batch"]]
"""Representations of examples, and 1 for each example that counts."""


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
    model, dropout = context.join(params)["model"], context.dropout_key
    keys = [None, None] if dropout is None else jax.random.split(jax.random.fold_in(dropout, digest(name)))
    target = batch["unlabelled"]
    source = plain({field: x for field, x in batch.items() if field != "unlabelled"})
    if "query" in batch or "chosen" in batch:
        outputs = apply(model, source, keys[0])
    of_target = apply(model, target, keys[1])
    return (
        (representation(outputs, source, on), row_weights(source)),
        (representation(of_target, target, on), row_weights(target)),
    )


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


def gathered(domain: Domain, axis: str | None) -> Domain:
    """The examples of all devices of a mapped axis."""
    return domain if axis is None else jax.lax.all_gather(domain, axis, tiled=True)
