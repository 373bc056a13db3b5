"""Random changes of examples inside a step: which draws an example gets depends on the step's key and on itself."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from ft_jax.core.batches import SHARES
from ft_jax.core.outputs import real_tokens
from ft_jax.outside import printable

Augmentation = Callable[[jax.Array, Mapping[str, Any]], Mapping[str, Any]]
"""``(key, example) -> example``: pure jax on one example, its fields without an axis of examples."""

NOT_CONTENT = ("labels", "weights", *SHARES)


def augmented(augmentation: Augmentation | None, key: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Every example of a batch, each changed by draws of its own; None changes nothing.

    An example's draws depend on `key` and its content alone and not on its place, so that micro-batches and devices
    change it as the whole batch would.

    Args:
      augmentation: of one example.
      key: of the step.
      batch: fields ``[batch, ...]``.

    Example:
      >>> from ft_jax.data.augment_text import hide_tokens
      >>> batch = {"input_ids": jnp.arange(12).reshape(2, 6)}
      >>> one = augmented(hide_tokens(0.5), jax.random.key(0), batch)["attention_mask"]
      >>> turned = jax.tree.map(lambda x: x[::-1], batch)
      >>> bool(jnp.all(one[::-1] == augmented(hide_tokens(0.5), jax.random.key(0), turned)["attention_mask"]))
      True
    """
    if augmentation is None:
        return dict(batch)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, content_digests(batch))
    return jax.vmap(augmentation)(keys, dict(batch))


def content_digests(batch: Mapping[str, Any]) -> UInt32[Array, " batch"]:
    """A number for each example that depends on what the model reads of it: all fields but labels and weights.

    Tokens that the attention mask hides are not read.
    """
    real = real_tokens(batch)

    def read(x):
        return x if real is None or jnp.shape(x) != real.shape else jnp.where(real > 0, x, 0)

    content = [read(batch[name]) for name in sorted(batch) if name not in NOT_CONTENT]
    digest = jnp.uint32(0)
    for leaf in jax.tree.leaves(content):
        flat = jnp.asarray(leaf).reshape(leaf.shape[0], -1)
        if jnp.issubdtype(flat.dtype, jnp.floating):
            bits = jax.lax.bitcast_convert_type(flat.astype(jnp.float32), jnp.uint32)
        else:
            bits = flat.astype(jnp.uint32)
        mixed = (bits ^ (bits >> 15)) * jnp.uint32(0x85EBCA6B)
        places = 2 * jnp.arange(flat.shape[1], dtype=jnp.uint32) + 1
        digest = digest * jnp.uint32(31) + jnp.sum((mixed ^ (mixed >> 13)) * places, axis=1, dtype=jnp.uint32)
    return digest


def in_turn(*augmentations: Augmentation) -> Augmentation:
    """Augmentations one after another, each with draws of its own.

    Example:
      >>> add = lambda key, example: {"x": example["x"] + 1}
      >>> in_turn(add, add)(jax.random.key(0), {"x": 1})["x"]
      3
    """

    def change(key, example):
        for index, augmentation in enumerate(augmentations):
            example = augmentation(jax.random.fold_in(key, index), example)
        return example

    return change


def sometimes(augmentation: Augmentation, probability: Float[Array, ""] | float) -> Augmentation:
    """An augmentation of some examples; the probability may be traced.

    Raises:
      ValueError: while tracing, an augmentation that gives other fields than it got (an attention mask may come).

    Example:
      >>> add = lambda key, example: {"x": example["x"] + 1}
      >>> [sometimes(add, chance)(jax.random.key(0), {"x": 1})["x"].item() for chance in (0.0, 1.0)]
      [1, 2]
    """

    def change(key, example):
        coin, own = jax.random.split(key)
        altered, plain = augmentation(own, example), dict(example)
        if "input_ids" in plain and "attention_mask" in altered:
            plain.setdefault("attention_mask", jnp.ones_like(altered["attention_mask"]))
        if altered.keys() != plain.keys():
            other = sorted(altered.keys() ^ plain.keys())[0]
            raise ValueError(
                f"an augmentation of some examples keeps their fields, and this one has {printable(other)} where "
                "others don't; give it a field to fill, or alter all examples"
            )
        chosen = jax.random.bernoulli(coin, jnp.clip(probability, 0.0, 1.0))
        return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), dict(altered), plain)

    return change
