"""The contrastive loss of one network that reads each modality alone."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ft_jax.core.batches import named, shares
from ft_jax.core.method import Loss
from ft_jax.multimodal.clip import contrastive_rows
from ft_jax.multimodal.presence import present_in
from ft_jax.multimodal.towers import unit

SCALE = 20.0
"""Of cosines before the softmax, as sentence-transformers has it."""


def alike(
    apply: Callable, modalities: Sequence[str] = ("image", "text"), scale: float = SCALE, term: str = "task"
) -> Loss:
    """Each example's representations by one modality and by another are told from those of the batch, both ways.

    With ``x`` the unit representations of the first modality alone and ``y`` those of another alone, the term is the
    mean over the others of ``(mean_i -log softmax_j(scale · x_i · y_j)[i] + mean_i -log softmax_j(scale · y_i ·
    x_j)[i]) / 2``: CLIP's loss (see `ft_jax.multimodal.clip`), and with several others ImageBind's (see `bind`), of
    one network. Examples that lack one of two sides have no part in their pair. Pairs of all devices and micro-batches
    are compared.

    Args:
      apply: of `ft_jax.multimodal.model`, ``(params, batch, key) -> Outputs``; with fusion ``"mean"`` the
        representation by several modalities is the mean of those by each.
      modalities: the anchor first.
      scale: of the cosines.
      term: the name of the loss's only term.

    Raises:
      ValueError: fewer than two modalities.
      KeyError: the batch lacks one.

    Example:
      >>> from ft_jax.core import make_step
      >>> import optax
      >>> program = make_step(alike(lambda params, batch, key: None), optax.sgd(0.1))
    """
    if len(set(modalities)) < 2:
        raise ValueError(f"modalities are {tuple(modalities)}; name two or more to compare")

    def loss(params, batch, context):
        lacks = [name for name in modalities if not batch.get(name)]
        if lacks:
            raise KeyError(
                f"a comparison of {' and '.join(modalities)} needs both, and the batch has {named(batch)}; give it "
                f"{lacks[0]!r}"
            )
        vectors, counts, outputs = {}, {}, None
        for name in modalities:
            found = context.drawing(name).run(apply, params, {name: batch[name]})
            vectors[name] = unit(found.hidden.astype(jnp.float32))
            counts[name] = _counts(batch, name)
            outputs = found if outputs is None else outputs
        first, *others = modalities
        terms = [
            context.couple(
                contrastive_rows,
                (vectors[first], vectors[name]),
                jnp.float32(scale),
                jnp.minimum(counts[first], counts[name]),
            )
            for name in others
        ]
        states = {f"{name}_features": x for name, x in vectors.items()}
        return {term: sum(terms) / len(terms)}, dataclasses.replace(outputs, states={**outputs.states, **states})

    return loss


def _counts(batch, name: str) -> jax.Array:
    """How much each example counts on one side: its part's share and its own, 0 where it lacks the modality."""
    there = present_in(batch[name])
    counts = there * shares(batch[name], there.shape)
    own = {field: batch[field] for field in ("example_share", "weights") if field in batch}
    return jnp.minimum(counts, shares(own, there.shape)) if own else counts
