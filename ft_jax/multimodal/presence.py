"""Which examples have a modality: parts of a batch with a mask, and a method that takes some away."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import rows
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method

PRESENT = "present"


def present_in(part: Mapping[str, Any]) -> Float[Array, " batch"]:
    """1 for each example of a modality's part that has it, else 0.

    Its ``present`` decides: one number an example, or as `ft_jax.data.collate` writes it one for each field, of which
    all must be there. Without it all have the modality, but those without a single token in the ``attention_mask``.

    Example:
      >>> present_in({"images": jnp.zeros((2, 8, 8, 1)), "present": jnp.array([1.0, 0.0])}).tolist()
      [1.0, 0.0]
      >>> present_in({"input_ids": jnp.zeros((2, 3)), "attention_mask": jnp.array([[0, 0, 0], [1, 1, 0]])}).tolist()
      [0.0, 1.0]
    """
    said = part.get(PRESENT)
    if isinstance(said, Mapping):
        flags = [value for field, value in said.items() if not field.endswith("_share")]
        said = jnp.stack([jnp.asarray(flag) for flag in flags]).min(axis=0) if flags else None
    there = jnp.ones(rows(part)) if said is None else (jnp.asarray(said) > 0).astype(jnp.float32)
    mask = part.get("attention_mask")
    return there if mask is None else there * jnp.any(mask > 0, axis=1)


def _in_two_modalities(batch):
    ids = {"input_ids": batch["input_ids"]}
    return {**batch, "first": ids, "second": ids}


@register(
    "multimodal",
    paper="Neverova et al. 2015, arXiv:1501.00102, section 3.4 (ModDrop)",
    needs=("a part for each modality",),
    example=lambda problem: modality_dropout(("first", "second"), 0.5),
    batch=_in_two_modalities,
    neutral=Neutral({"rate": 0.0}),
)
def modality_dropout(
    modalities: Sequence[str], rate: float = 0.3, *, name: str = "multimodal.modality_dropout"
) -> Method:
    """Takes modalities away from training examples at random, so that the model serves those that lack some.

    Each modality of each example is dropped with probability `rate`, on its own; where that would leave an example with
    none, it keeps those it had. What is dropped has ``present`` 0, as if it had never been there. An evaluation drops
    nothing.

    Args:
      modalities: the fields of the batch that may be dropped; the model reads them as `model` does.
      rate: of dropping, a number in ``hyper``.
      name: the method's name.

    Raises:
      ValueError: fewer than two modalities, one named twice, or a rate that is no probability below 1.
      KeyError: when training on a batch with none of them.

    Example:
      >>> modality_dropout(("image", "text"), 0.5)
      Method('multimodal.modality_dropout', rate=0.5)
    """
    modalities = tuple(modalities)
    if len(set(modalities)) < max(2, len(modalities)):
        raise ValueError(f"{name} has modalities {modalities}; name at least two, each once")
    if not 0 <= rate < 1:
        raise ValueError(f"{name} has rate {rate}; give a probability from 0 to below 1")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        held = [modality for modality in modalities if batch.get(modality)]
        if not held:
            raise KeyError(f"{name} drops {', '.join(modalities)}, and the batch has none of them; name its own")
        there = jnp.stack([present_in(batch[modality]) for modality in held], axis=1)
        keys = context.keys_for(name, batch)
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (len(modalities),)))(keys)
        places = jnp.array([modalities.index(modality) for modality in held])
        left = there * (drawn[:, places] >= context.hyper[name]["rate"])
        left = jnp.where(jnp.any(left > 0, axis=1, keepdims=True), left, there)
        changed = {modality: {**batch[modality], PRESENT: left[:, place]} for place, modality in enumerate(held)}
        return state, {**batch, **changed}

    return Method(name=name, hyper={"rate": rate}, prepare=prepare, fields=modalities)
