"""Replay with an asymmetric cross-entropy: new examples compete among their own classes only."""

import dataclasses

import jax
import jax.numpy as jnp

from ft_jax.core.batches import counted
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.state import Batch
from ft_jax.incremental.replay import insert, rehearsal, rows_like

HIDDEN = -1e9
"""Added to the logits of classes that are left out."""


@register(
    "incremental",
    paper="Caccia et al. 2022, arXiv:2104.05025, equation 4 (ER-ACE)",
    example=lambda problem: er_ace(6, 4, problem.batch, problem.params["head"]["kernel"].shape[-1], weight=0.05),
    neutral="at any weight the classes that are not in the batch are hidden from it, which is what the method does",
)
def er_ace(
    capacity: int, size: int, example: Batch, classes: int, weight: float = 1.0, *, name: str = "incremental.er_ace"
) -> Method:
    """Replay in which the incoming examples' softmax is over the classes of their own batch.

    ``loss(new; classes of the batch) + weight · loss(replayed; all classes)``: the logits of classes that are not among
    the whole batch's labels are hidden from it, so that they are not pushed down by examples of others, while replayed
    examples, drawn as in `ft_jax.incremental.replay`, see all. Evaluation hides none.

    Args:
      capacity, size, example, weight: as in `ft_jax.incremental.replay`.
      classes: of the model's logits.
      name: the method's name; its memory is that of `ft_jax.incremental.replay`.

    Raises:
      ValueError: a capacity, size or number of classes below 1, and in the first step a model with other classes.
      KeyError: in the first step, a batch without labels, or without a field of `example`.

    Example:
      >>> batch = {"x": jnp.zeros((2, 5)), "labels": jnp.zeros(2, jnp.int32)}
      >>> er_ace(10, 4, batch, classes=3).memory(None, None)["buffer"]["x"].shape
      (10, 5)
    """
    if classes < 1:
        raise ValueError(f"{name} has {classes} classes; give at least 1")
    field, like = f"{name}/hidden", rows_like(example)

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        if "labels" not in batch:
            raise KeyError(f"{name} needs 'labels', but the batch has {', '.join(batch)}; add them")
        labels = batch["labels"]
        counts = jnp.broadcast_to(counted(batch), labels.shape).reshape(-1) > 0
        places = jnp.where(counts & (labels.reshape(-1) >= 0), labels.reshape(-1), classes)
        present = jnp.zeros(classes).at[places].set(1.0, mode="drop")
        if context.axis is not None:
            present = jax.lax.pmax(present, context.axis)
        hidden = jnp.where(present > 0, 0.0, HIDDEN)
        return state, {**batch, field: jnp.broadcast_to(hidden, (labels.shape[0], classes))}

    def forward(inner):
        def asymmetric(params, batch, context):
            outputs = inner(params, batch, context)
            if field not in batch or outputs.unembedding is None:
                return outputs
            bias = batch[field][0]
            found = outputs.logits.shape[-1]
            if found != classes:
                raise ValueError(
                    f"{name} hides some of {classes} classes, and the model has {found}; set classes to that"
                )
            return dataclasses.replace(outputs, bias=bias if outputs.bias is None else outputs.bias + bias)

        return asymmetric

    def admit(memory, batch, event, numbers):
        return insert(memory, batch, event.key)

    return rehearsal(name, capacity, size, like, weight, admit, prepare=prepare, forward=forward, reads="examples")
