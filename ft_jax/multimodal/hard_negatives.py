"""Contrastive learning with negatives that were made or found for each pair."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.batches import shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.multimodal.clip import paired_with_itself, twin
from ft_jax.multimodal.towers import beside, counted_mean, seen_by


def _with_negatives(batch):
    paired = paired_with_itself(batch)
    return {**paired, "negatives": {"input_ids": batch["input_ids"][:, ::-1]}}


@register(
    "multimodal",
    paper="Yuksekgonul et al. 2022, arXiv:2210.01936, section 4 (NegCLIP)",
    needs=("paired", "negatives"),
    example=lambda problem: twin(hard_negatives, problem),
    batch=_with_negatives,
    neutral=Neutral({"weight": 0.0}),
)
def hard_negatives(
    apply: Callable,
    params: Params,
    width: int,
    other: str = "paired",
    negatives: str = "negatives",
    weight: float = 1.0,
    *,
    inputs: tuple[int, int] | None = None,
    name: str = "multimodal.hard_negatives",
) -> Method:
    """`clip` in which every example brings a negative of its own, which is one for the whole batch.

    With the negatives' embeddings ``h`` the term is
    ``weight / 2 · (cross_entropy(scale · x @ [y; h].T, i) + cross_entropy(scale · y @ x.T, i))``: a negative caption
    has no image of its own, so it is a class for the model's side alone.

    Args:
      apply, params, width, other, weight, inputs, name: as for `clip`.
      negatives: the field of the batch with the second tower's batch of negatives, one an example. Where its
        ``weights`` (or all of a row's ``attention_mask``) are 0, the example brings none.

    Raises:
      KeyError: when training on a batch without the field `other` or `negatives`.

    Example:
      >>> hard_negatives(lambda params, batch, key: None, {}, width=64)
      Method('multimodal.hard_negatives', weight=1)
    """

    def value(pair, context):
        part = pair.batch[negatives]
        hard = pair.again(part, "negatives")
        there = shares(part, hard.shape[:1])
        return context.couple(_rows, (pair.x, pair.y, hard), jnp.exp(pair.own["log_scale"]), (pair.counts, there))

    return beside(name, apply, params, width, other, inputs, value, weight=weight, needs=(negatives,))


def _rows(own, everyone, start, scale, aligned, all_aligned) -> jax.Array:
    (counts, _), (all_counts, all_there) = aligned, all_aligned
    place, seen = seen_by(counts, all_counts, start)
    x, y, _ = own
    among = jnp.concatenate([everyone[1], everyone[2]])
    hard = jnp.broadcast_to((all_there > 0) & (all_counts > 0), (x.shape[0], all_there.shape[0]))
    sides = [
        optax.softmax_cross_entropy_with_integer_labels(jnp.where(shown, scale * mine @ theirs.T, -jnp.inf), place)
        for mine, theirs, shown in ((x, among, jnp.concatenate([seen, hard], axis=1)), (y, everyone[0], seen))
    ]
    return counted_mean((sides[0] + sides[1]) / 2, counts, all_counts)
