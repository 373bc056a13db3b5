"""What the contrastive methods share: a second tower beside the model, and both sides in one space."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.batches import named, shares
from ft_jax.core.method import Method, UpdateTransform
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.core.params import Params, matches, path_of
from ft_jax.core.state import Batch
from ft_jax.core.weights import matmul

SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Where the logits' scale starts and what it is clipped at, section 2.5 of CLIP's paper (arXiv:2103.00020)."""

LOG_SCALE = {"log_scale": math.log(SCALE)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both sides of a batch of pairs, as a contrastive loss gets them.

    Attributes:
      x, y: what `represent` makes of the model's and the second tower's outputs.
      outputs: the second tower's.
      own: the method's parameters.
      counts: ``[batch]``, how much each pair counts; 0 for padding.
      batch: the whole one.
      again: ``(batch of the second tower, a word) -> representations``, the second tower once more, with its own
        dropout by the word.
      model: the model's outputs.
    """

    x: Any
    y: Any
    outputs: Outputs
    own: Params
    counts: Float[Array, " batch"]
    batch: Batch
    again: Callable[[Batch, str], Any]
    model: Outputs


def unit_vectors(projection: Params, outputs: Outputs, batch: Batch, name: str) -> Float[Array, "batch width"]:
    """The pooled representation of each example in the shared space, of length 1 and in float32."""
    return unit(projected(projection, pooled(outputs, batch), name))


def projected(projection: Params, vectors: Float[Array, "... inputs"], name: str) -> Float[Array, "... width"]:
    """Representations in the shared space.

    Raises:
      ValueError: they are not as wide as the projection takes.
    """
    wide = projection["kernel"].shape[0]
    if vectors.shape[-1] != wide:
        raise ValueError(
            f"{name} projects representations of width {wide}, but a tower gives {vectors.shape[-1]}; "
            "pass inputs=(width of the model's, width of the second tower's)"
        )
    return matmul(projection["kernel"], vectors)


def unit(vectors: Float[Array, "... width"]) -> Float[Array, "... width"]:
    """Vectors of length 1; one of zeros stays, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), 1e-12))


def beside(
    name: str,
    apply: Callable,
    params: Params,
    width: int,
    other: str,
    inputs: tuple[int, int] | None,
    value: Callable[[Pair, Any], jax.Array],
    *,
    weight: float,
    represent: Callable = unit_vectors,
    scalars: Mapping[str, float] = LOG_SCALE,
    hyper: Mapping[str, float] | None = None,
    more: Callable[[jax.Array], Params] | None = None,
    needs: tuple[str, ...] = (),
) -> Method:
    """The method of a contrastive term between the model and a second tower that learns beside it.

    Args:
      name: of the method.
      apply, params: the second tower.
      width: of the shared space.
      other: the field of the batch with the second tower's batch.
      inputs: widths of both representations; `width` where None.
      value: ``(pair, context) -> scalar, or named scalars``; the terms are multiplied by ``hyper[name]["weight"]``.
      weight: of the term.
      represent: ``(projection, outputs, batch, name) -> representations``.
      scalars: learned numbers of its own; ``log_scale`` is held at ``log(100)`` at most.
      hyper: its further numbers.
      more: ``key -> parameters`` of its own besides.
      needs: further fields of the batch without which it can't train.
    """
    inputs = (width, width) if inputs is None else inputs

    def surgery(whole, key):
        first, second = jax.random.split(key)
        own = {
            "tower": params,
            "projection": {"kernel": jax.random.normal(first, (inputs[0], width)) / math.sqrt(inputs[0])},
            "other_projection": {"kernel": jax.random.normal(second, (inputs[1], width)) / math.sqrt(inputs[1])},
            **{scalar: jnp.float32(start) for scalar, start in scalars.items()},
        }
        own |= {} if more is None else more(jax.random.fold_in(key, 1))
        return {**whole, name: own}

    def loss(inner):
        def contrasted(params, batch, context):
            lacks = [field for field in (other, *needs) if field not in batch]
            if lacks and context.train:
                meant = "the second tower's batch" if lacks[0] == other else "the negatives of each pair"
                raise KeyError(
                    f"{name} needs {meant} under {lacks[0]!r}, but the batch has {named(batch)}; "
                    f"add it, or name the field with {'other' if lacks[0] == other else 'negatives'}=..."
                )
            terms, outputs = inner(params, batch, context)
            if lacks:
                return terms, outputs
            own = context.join(params)[name]

            def tower(part, word):
                outputs = apply(own["tower"], part, context.drawing(word).dropout_key)
                return outputs, represent(own["other_projection"], outputs, part, name)

            theirs, y = tower(batch[other], name)
            x = represent(own["projection"], outputs, batch, name)
            first, second = jax.tree.leaves(x)[0], jax.tree.leaves(y)[0]
            counts = jnp.minimum(shares(batch, first.shape[:1]), shares(batch[other], second.shape[:1]))
            again = lambda part, word: tower(part, f"{name}.{word}")[1]  # noqa: E731
            found = value(Pair(x, y, theirs, own, counts, batch, again, outputs), context)
            states = {**outputs.states, f"{name}/model": x, f"{name}/other": y}
            found = found if isinstance(found, Mapping) else {name: found}
            terms = {**terms, **{term: context.hyper[name]["weight"] * one for term, one in found.items()}}
            return terms, dataclasses.replace(outputs, states=states)

        return contrasted

    return Method(
        name=name,
        hyper={"weight": weight, **(hyper or {})},
        surgery=surgery,
        loss=loss,
        update=held_at((f"{name}/log_scale",), lambda event: math.log(LARGEST_SCALE)),
        reads="examples",
        fields=(other, *needs),
    )


def held_at(patterns: tuple[str, ...], largest: Callable[[Any], Any]) -> UpdateTransform:
    """An update after which no parameter of `patterns` is above ``largest(event)``."""

    def update(inner):
        def clipped(gradients, state, params=None, *, event):
            updates, state = inner.update(gradients, state, params, event=event)
            most = largest(event)

            def hold(path, u, p):
                return jnp.where(p + u > most, most - p, u).astype(u.dtype) if matches(path_of(path), patterns) else u

            return jax.tree_util.tree_map_with_path(hold, updates, params), state

        return optax.GradientTransformationExtraArgs(inner.init, clipped)

    return update


def seen_by(counts, all_counts, start):
    """``(place [own] of each own row among all, seen [own, all])``: what counts, and for each row itself."""
    place = start + jnp.arange(counts.shape[0])
    itself = jnp.arange(all_counts.shape[0]) == place[:, None]
    return place, (all_counts > 0) | itself


def counted_mean(values, counts, all_counts) -> Float[Array, ""]:
    """This device's part of the mean of its rows' values over everyone's rows that count."""
    return jnp.mean(counts * values) / jnp.maximum(jnp.mean(all_counts), 1e-9)
