"""The part of a batch without labels, which several methods train on beside the labelled examples."""

from collections.abc import Callable

import jax
from jaxtyping import Array

from ft_jax.core.batches import named, without_shares
from ft_jax.core.method import LossTransform
from ft_jax.core.state import Batch, Context

LAYOUT = "examples beside unlabelled ones"
"""What a method whose batch has such a part gives, see `ft_jax.core.method.Method.gives`."""


def part(batch: Batch, context: Context, name: str) -> Batch | None:
    """``batch["unlabelled"]``, or None while evaluating a batch that has none.

    Raises:
      KeyError: while training on a batch that has none.
    """
    if "unlabelled" in batch:
        return batch["unlabelled"]
    if context.train:
        raise KeyError(
            f"{name} trains on batch['unlabelled'], which the batch lacks (it has {named(batch)}); give the "
            "data a stream of unlabelled examples"
        )
    return None


def adding(name: str, value: Callable[..., Array], in_evaluation: bool) -> LossTransform:
    """A loss transform that adds the term `name` to batches with an unlabelled part.

    Args:
      name: of the method and its term.
      value: ``(params, batch, outputs of the loss inside, context) -> scalar``.
      in_evaluation: whether an evaluation of such a batch has the term too.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
    """

    def transform(inner):
        def beside(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if part(batch, context, name) is None or not (context.train or in_evaluation):
                return terms, outputs
            return {**terms, name: value(params, batch, outputs, context)}, outputs

        return beside

    return transform


def plain(batch: Batch) -> Batch:
    """The examples of a batch of any layout: of episodes the query's, of preferences the chosen ones.

    Example:
      >>> import jax.numpy as jnp
      >>> plain({"support": {}, "query": {"x": jnp.ones((2, 3, 4))}})["x"].shape
      (6, 4)
    """
    if "query" in batch:
        arrays = without_shares(batch["query"])
        return plain(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays))
    return plain(batch["chosen"]) if "chosen" in batch else batch


def beside_itself(batch: Batch) -> Batch:
    """`batch` with its own examples ``[..., time]`` as the unlabelled ones, whatever its layout: for the laws."""
    return {**batch, "unlabelled": rows_of(batch)}


def rows_of(batch: Batch) -> dict[str, Array]:
    """Examples of tokens ``[rows, ...]``, out of a batch of whatever layout."""
    examples = batch
    while "input_ids" not in examples:
        examples = next(one for one in examples.values() if isinstance(one, dict))
    lead = examples["input_ids"].ndim - 1
    return {name: x.reshape(-1, *x.shape[lead:]) for name, x in examples.items() if not isinstance(x, dict)}


def without_unlabelled(batch: Batch) -> Batch:
    """The batch's labelled fields alone."""
    return {field: value for field, value in batch.items() if field != "unlabelled"}
