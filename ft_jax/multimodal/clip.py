"""Contrastive learning of two towers over pairs."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.params import Params, digest, path_of
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
    kind=("surgery", "loss", "update"),
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
    row ``i`` is ``i``. ``log_scale`` learns from ``log(1 / 0.07)`` and is held at ``log(100)`` at most. Under
    pmap the embeddings of all devices are negatives, and the loss is that of one device with all pairs.
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
      >>> clip(lambda params, batch, key: Outputs(batch["images"]), {}, width=64, inputs=(384, 64)).couples
      True
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
                    f"{name} needs the second tower's batch under {other!r}, but the batch has {', '.join(batch)}; "
                    "add it, or name the field with other=..."
                )
            terms, outputs = inner(params, batch, context)
            if other not in batch:
                return terms, outputs
            own = context.join(params)[name]
            key = context.dropout_key
            key = None if key is None else jax.random.fold_in(key, digest(name))
            x = _unit(own["projection"], outputs, batch, name)
            y = _unit(own["other_projection"], apply(own["tower"], batch[other], key), batch[other], name)
            value = contrastive(x, y, jnp.exp(own["log_scale"]), context.axis)
            states = {**outputs.states, f"{name}/model": x, f"{name}/other": y}
            terms = {**terms, name: context.hyper[name]["weight"] * value}
            return terms, dataclasses.replace(outputs, states=states)

        return contrasted

    def update(inner):
        def clipped(gradients, state, params=None, **extra):
            updates, state = inner.update(gradients, state, params, **extra)

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
        couples=True,
    )


def contrastive(
    x: Float[Array, "batch width"], y: Float[Array, "batch width"], scale: Float[Array, ""] | float, axis=None
) -> Float[Array, ""]:
    """The symmetric cross-entropy of pairs among all pairs of the batch, in nats.

    ``(mean_i -log softmax_j(scale · x_i · y_j)[i] + mean_i -log softmax_j(scale · y_i · x_j)[i]) / 2``.

    Args:
      x, y: unit embeddings, pair by pair.
      scale: of the similarities, one over the temperature.
      axis: a mapped device axis whose other devices' pairs are negatives too. The mean over devices is then
        the value, and the gradient, of all pairs on one device.

    Example:
      >>> round(float(contrastive(jnp.eye(2), jnp.eye(2), 1.0)), 4)
      0.3133
    """
    all_x, all_y, start = x, y, 0
    if axis is not None:
        all_x, all_y = (jax.lax.all_gather(side, axis, tiled=True) for side in (x, y))
        start = jax.lax.axis_index(axis) * x.shape[0]
    rows = start + jnp.arange(x.shape[0])
    sides = [
        optax.softmax_cross_entropy_with_integer_labels(scale * x @ all_y.T, rows),
        optax.softmax_cross_entropy_with_integer_labels(scale * y @ all_x.T, rows),
    ]
    return (jnp.mean(sides[0]) + jnp.mean(sides[1])) / 2


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
