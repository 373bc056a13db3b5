"""Many modalities bound through one: pairs with an anchor are enough to compare all with all."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.batches import named, shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.core.weights import shape
from ft_jax.multimodal.clip import contrastive_rows
from ft_jax.multimodal.presence import present_in
from ft_jax.multimodal.towers import LARGEST_SCALE, LOG_SCALE, held_at, unit_vectors


@dataclasses.dataclass(frozen=True)
class Tower:
    """The encoder of a modality that is bound.

    Attributes:
      apply: ``(params, batch, key) -> Outputs``.
      params: where it starts.
      width: of its representations.
    """

    apply: Callable
    params: Params
    width: int


def _two_modalities(batch):
    ids = {"input_ids": batch["input_ids"]}
    there = (jnp.arange(len(batch["input_ids"])) % 4 > 0).astype(jnp.float32)
    return {**batch, "audio": ids, "depth": {**ids, "present": there}}


def _example(problem):
    wide = shape(problem.params["head"]["kernel"])[0]
    tower = Tower(problem.apply, problem.params, wide)
    return bind({"audio": tower, "depth": tower}, width=8, anchor=wide)


@register(
    "multimodal",
    paper="Girdhar et al. 2023, arXiv:2305.05665, equation 1",
    needs=("a part for each modality",),
    example=_example,
    batch=_two_modalities,
    neutral=Neutral({"weight": 0.0}),
)
def bind(
    towers: Mapping[str, Tower],
    width: int,
    *,
    anchor: int | None = None,
    weight: float = 1.0,
    name: str = "multimodal.bind",
) -> Method:
    """Learns an encoder for each modality beside the model, whose modality is the anchor of all.

    For each modality ``m``, with the anchors' unit embeddings ``x`` and the modality's ``y_m`` in one space, adds the
    term ``weight / 2 · (cross_entropy(scale_m · x @ y_m.T, i) + cross_entropy(scale_m · y_m @ x.T, i))`` over the
    examples that have it: those of the part ``batch[m]`` whose ``present`` is not 0. No modality but the anchor is
    compared with another, and yet they come to lie together. Each ``log_scale`` learns from ``log(1 / 0.07)`` and is
    held at ``log(100)`` at most. A batch without a modality trains the others.

    Args:
      towers: by modality, which is also the field of the batch with its batch.
      width: of the shared space.
      anchor: the width of the model's representations; `width` by default.
      weight: of the terms.
      name: the method's name.

    Raises:
      KeyError: when training on a batch without any of the modalities.
      ValueError: no tower; in the first step, a representation of another width than was said.

    Example:
      >>> from ft_jax.core import Outputs
      >>> tower = Tower(lambda params, batch, key: Outputs(batch["sound"]), {}, 32)
      >>> bind({"audio": tower}, width=64)
      Method('multimodal.bind', weight=1)
    """
    if not towers:
        raise ValueError(f"{name} binds no modality; give it at least one tower")
    anchor = width if anchor is None else anchor

    def surgery(whole, key):
        keys = jax.random.split(key, len(towers) + 1)

        def projection(key, inputs):
            return {"kernel": jax.random.normal(key, (inputs, width)) / math.sqrt(inputs)}

        own = {
            modality: {"tower": tower.params, "projection": projection(one, tower.width)}
            | {scalar: jnp.float32(start) for scalar, start in LOG_SCALE.items()}
            for one, (modality, tower) in zip(keys[1:], towers.items(), strict=True)
        }
        return {**whole, name: {"projection": projection(keys[0], anchor), "modalities": own}}

    def loss(inner):
        def bound(params, batch, context):
            terms, outputs = inner(params, batch, context)
            there = [modality for modality in towers if batch.get(modality)]
            if not there:
                if not context.train:
                    return terms, outputs
                raise KeyError(
                    f"{name} binds {', '.join(towers)}, and the batch has {named(batch)}; give it one of their parts"
                )
            own = context.join(params)[name]
            x = unit_vectors(own["projection"], outputs, batch, name)
            states, found = {**outputs.states, f"{name}/anchor": x}, {}
            for modality in there:
                mine, part = own["modalities"][modality], batch[modality]
                seen = towers[modality].apply(mine["tower"], part, context.drawing(f"{name}.{modality}").dropout_key)
                y = unit_vectors(mine["projection"], seen, part, name)
                counts = jnp.minimum(shares(batch, x.shape[:1]), shares(part, y.shape[:1])) * present_in(part)
                value = context.couple(contrastive_rows, (x, y), jnp.exp(mine["log_scale"]), counts)
                found[f"{name}/{modality}"] = context.hyper[name]["weight"] * value
                states[f"{name}/{modality}"] = y
            return {**terms, **found}, dataclasses.replace(outputs, states=states)

        return bound

    held = held_at((f"{name}/modalities/*/log_scale",), lambda event: math.log(LARGEST_SCALE))
    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=surgery,
        loss=loss,
        update=held,
        reads="examples",
        fields=tuple(towers),
    )
