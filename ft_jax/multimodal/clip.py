"""Contrastive learning of two towers over pairs."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.core.state import Batch
from ft_jax.core.weights import shape
from ft_jax.multimodal.towers import beside, counted_mean, seen_by, unit_vectors


def paired_with_itself(batch):
    """The law's batch with the model's own tokens as the second tower's, beside what others read of it."""
    return {**batch, "paired": {"input_ids": batch["input_ids"], **batch.get("paired", {})}}


def twin(build, problem, **options):
    """The law's method: the model beside itself as the second tower."""
    wide = shape(problem.params["head"]["kernel"])[0]
    return build(problem.apply, problem.params, width=8, inputs=(wide, wide), **options)


@register(
    "multimodal",
    paper="Radford et al. 2021, arXiv:2103.00020, figure 3",
    needs=("paired",),
    example=lambda problem: twin(clip, problem),
    batch=paired_with_itself,
    neutral=Neutral({"weight": 0.0}),
)
def clip(
    apply: Callable,
    params: Params,
    width: int,
    other: str = "paired",
    weight: float = 1.0,
    *,
    inputs: tuple[int, int] | None = None,
    name: str = "multimodal.clip",
) -> Method:
    """Learns a second tower beside the model, so that the two sides of a pair have similar embeddings.

    With unit embeddings ``x = unit(pool(model) @ projection)`` and ``y = unit(pool(tower) @ other_projection)``
    of the pairs of a batch, adds the term
    ``weight / 2 · (cross_entropy(scale · x @ y.T, i) + cross_entropy(scale · y @ x.T, i))`` whose label of
    row ``i`` is ``i``. ``log_scale`` learns from ``log(1 / 0.07)`` and is held at ``log(100)`` at most. The
    pairs of all devices and micro-batches are negatives, and padding is none.
    ``pool`` is the outputs' one vector an example, or the mean over the tokens of ``attention_mask``.

    A batch without the field `other` is evaluated without the term.

    Args:
      apply: the second tower's, ``(params, batch, key) -> Outputs``.
      params: where the second tower starts; it learns under ``params[name]["tower"]``.
      width: of the shared space.
      other: the field of the batch that holds the second tower's batch, pair by pair.
      weight: of the term.
      inputs: the widths of the model's and the second tower's representations; both `width` by default.
      name: the method's name.

    Raises:
      KeyError: when training on a batch without the field `other`.
      ValueError: in the first step, where a tower's representation is not as wide as `inputs` says.

    Example:
      >>> clip(lambda params, batch, key: Outputs(batch["images"]), {}, width=64, inputs=(384, 64))
      Method('multimodal.clip', weight=1)
    """

    def value(pair, context):
        return context.couple(contrastive_rows, (pair.x, pair.y), jnp.exp(pair.own["log_scale"]), pair.counts)

    return beside(name, apply, params, width, other, inputs, value, weight=weight)


def contrastive(
    x: Float[Array, "batch width"], y: Float[Array, "batch width"], scale: Float[Array, ""] | float
) -> Float[Array, ""]:
    """The symmetric cross-entropy of pairs among all pairs of the batch, in nats.

    ``(mean_i -log softmax_j(scale · x_i · y_j)[i] + mean_i -log softmax_j(scale · y_i · x_j)[i]) / 2``.

    Args:
      x, y: unit embeddings, pair by pair.
      scale: of the similarities, one over the temperature.

    Example:
      >>> round(float(contrastive(jnp.eye(2), jnp.eye(2), 1.0)), 4)
      0.3133
    """
    counts = jnp.ones(x.shape[0])
    return contrastive_rows((x, y), (x, y), 0, scale, counts, counts)


def contrastive_rows(own, everyone, start, scale, counts, all_counts) -> Float[Array, ""]:
    """`contrastive` of this device's pairs among all devices', those of count 0 left out: for `Context.couple`."""
    place, seen = seen_by(counts, all_counts, start)
    sides = [
        optax.softmax_cross_entropy_with_integer_labels(jnp.where(seen, scale * mine @ theirs.T, -jnp.inf), place)
        for mine, theirs in ((own[0], everyone[1]), (own[1], everyone[0]))
    ]
    return counted_mean((sides[0] + sides[1]) / 2, counts, all_counts)


def embed(
    apply: Callable,
    other_apply: Callable,
    params: Params,
    batch: Batch,
    other: str = "paired",
    name: str = "multimodal.clip",
) -> tuple[Float[Array, "batch width"], Float[Array, "batch width"]]:
    """The unit embeddings of both sides of a batch, for retrieval: similarities are ``x @ y.T``.

    Args:
      apply, other_apply: the model's and the second tower's.
      params: the whole tree, such as `ft_jax.core.parameters` gives.
      batch: the model's fields, and the second tower's under `other`.
      other, name: as in `clip`.
    """
    own = params[name]
    x = unit_vectors(own["projection"], apply(params["model"], batch, None), batch, name)
    y = unit_vectors(own["other_projection"], other_apply(own["tower"], batch[other], None), batch[other], name)
    return x, y
