"""Contrastive learning of two towers over pairs."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.batches import named, shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.params import Params, path_of
from ft_jax.core.state import Batch
from ft_jax.core.weights import matmul, shape

SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Where the logits' scale starts and what it is clipped at, section 2.5 of the paper."""


def _paired_with_itself(batch):
    return {**batch, "paired": {"input_ids": batch["input_ids"]}}


def _twin(problem):
    wide = shape(problem.params["head"]["kernel"])[0]
    return clip(problem.apply, problem.params, width=8, inputs=(wide, wide))


@register(
    "multimodal",
    paper="Radford et al. 2021, arXiv:2103.00020, figure 3",
    needs=("paired",),
    example=_twin,
    batch=_paired_with_itself,
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
    inputs = (width, width) if inputs is None else inputs
    largest = math.log(LARGEST_SCALE)

    def surgery(whole, key):
        first, second = jax.random.split(key)
        own = {
            "tower": params,
            "projection": {"kernel": jax.random.normal(first, (inputs[0], width)) / math.sqrt(inputs[0])},
            "other_projection": {"kernel": jax.random.normal(second, (inputs[1], width)) / math.sqrt(inputs[1])},
            "log_scale": jnp.float32(math.log(SCALE)),
        }
        return {**whole, name: own}

    def loss(inner):
        def contrasted(params, batch, context):
            if other not in batch and context.train:
                raise KeyError(
                    f"{name} needs the second tower's batch under {other!r}, but the batch has {named(batch)}; "
                    "add it, or name the field with other=..."
                )
            terms, outputs = inner(params, batch, context)
            if other not in batch:
                return terms, outputs
            own = context.join(params)[name]
            key = context.drawing(name).dropout_key
            x = _unit(own["projection"], outputs, batch, name)
            y = _unit(own["other_projection"], apply(own["tower"], batch[other], key), batch[other], name)
            counts = jnp.minimum(shares(batch, x.shape[:1]), shares(batch[other], y.shape[:1]))
            value = context.couple(contrastive_rows, (x, y), jnp.exp(own["log_scale"]), counts)
            states = {**outputs.states, f"{name}/model": x, f"{name}/other": y}
            terms = {**terms, name: context.hyper[name]["weight"] * value}
            return terms, dataclasses.replace(outputs, states=states)

        return contrasted

    def update(inner):
        def clipped(gradients, state, params=None, *, event):
            updates, state = inner.update(gradients, state, params, event=event)

            def hold(path, u, p):
                return jnp.where(p + u > largest, largest - p, u) if path_of(path) == f"{name}/log_scale" else u

            return jax.tree_util.tree_map_with_path(hold, updates, params), state

        return optax.GradientTransformationExtraArgs(inner.init, clipped)

    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=surgery,
        loss=loss,
        update=update,
        reads="examples",
        fields=(other,),
    )


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
    place = start + jnp.arange(own[0].shape[0])
    itself = jnp.arange(all_counts.shape[0]) == place[:, None]
    seen = (all_counts > 0) | itself  # a row is never without a class
    sides = [
        optax.softmax_cross_entropy_with_integer_labels(jnp.where(seen, scale * mine @ theirs.T, -jnp.inf), place)
        for mine, theirs in ((own[0], everyone[1]), (own[1], everyone[0]))
    ]
    return jnp.mean(counts * (sides[0] + sides[1]) / 2) / jnp.maximum(jnp.mean(all_counts), 1e-9)


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
    x = _unit(own["projection"], apply(params["model"], batch, None), batch, name)
    y = _unit(own["other_projection"], other_apply(own["tower"], batch[other], None), batch[other], name)
    return x, y


def _unit(projection, outputs: Outputs, batch: Batch, name: str) -> Float[Array, "batch width"]:
    """The pooled representation of each example in the shared space, of length 1 and in float32."""
    representation = pooled(outputs, batch)
    wide = projection["kernel"].shape[0]
    if representation.shape[-1] != wide:
        raise ValueError(
            f"{name} projects representations of width {wide}, but a tower gives {representation.shape[-1]}; "
            "pass inputs=(width of the model's, width of the second tower's)"
        )
    projected = matmul(projection["kernel"], representation)
    return projected * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(projected), axis=-1, keepdims=True), 1e-12))
