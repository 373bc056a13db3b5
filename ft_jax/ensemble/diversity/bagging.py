"""Bagging: every member weighs the examples in its own way."""

import jax
import jax.numpy as jnp

from ft_jax.core.batches import Batch, example_weights, rows
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method

KINDS = ("poisson", "subsample")
INDEX = "index"


@register(
    "ensemble",
    paper="Breiman 1996 (bagging); Oza and Russell 2001 (its Poisson form)",
    example=lambda problem: bagging("subsample", share=0.7),
    neutral=Neutral({"share": 1.0}),
)
def bagging(kind: str = "poisson", share: float = 1.0, *, name: str = "ensemble.bagging") -> Method:
    """Gives every example a weight that this member drew for it, the same whenever the example comes.

    ``"poisson"``: the count of the example in a bootstrap sample, whose limit is ``Poisson(share)``; ``"subsample"``: 1
    with chance `share`, else 0 (pasting). Name it inside of `members`: each member then has a sample of its own, and a
    run alone has one. The draw depends on the member's key and on the example: on the field ``index [batch]`` where the
    data have one, else on a digest of the example's numbers, so that padding and the order of the data don't matter but
    augmentation before it would. Evaluation weighs nothing.

    Args:
      kind: ``"poisson"`` or ``"subsample"``.
      share: mean weight, data in ``hyper``.
      name: the method's name; the member's key is in ``memory[name]``.

    Raises:
      ValueError: an unknown kind or a share that is not positive.

    Example:
      >>> bagging("subsample", share=0.6).hyper
      {'share': 0.6}
    """
    if kind not in KINDS:
        raise ValueError(f"{name} can't sample by {kind!r}; use {' or '.join(map(repr, KINDS))}")
    if not share > 0 or (kind == "subsample" and share > 1):
        raise ValueError(f"{name} has share {share}; give a number above 0, and at most 1 for a subsample")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        key, mean = jax.random.wrap_key_data(state.memory[name]), state.hyper[name]["share"]
        places = batch[INDEX].astype(jnp.uint32) if INDEX in batch else row_digests(batch)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
        if kind == "poisson":
            drawn = jax.vmap(lambda key: jax.random.poisson(key, mean))(keys).astype(jnp.float32)
        else:
            drawn = jax.vmap(lambda key: jax.random.uniform(key))(keys) < mean
        return state, weighed(batch, drawn.astype(jnp.float32))

    return Method(
        name=name, hyper={"share": share}, memory=lambda params, key: jax.random.key_data(key), prepare=prepare
    )


def weighed(batch: Batch, factors: jax.Array) -> Batch:
    """`batch` whose examples count `factors [batch]` times as much; of a batch of parts, in every part."""
    parts = {field: weighed(x, factors) for field, x in batch.items() if hasattr(x, "items")}
    if len(parts) == len(batch):
        return {**batch, **parts}
    weights = batch.get("weights")
    weights = example_weights(batch) if weights is None else weights.astype(jnp.float32)
    return {**batch, "weights": weights * factors.reshape(-1, *(1,) * (weights.ndim - 1))}


def row_digests(batch: Batch) -> jax.Array:
    """A number ``[batch]`` uint32 for each example that depends on its numbers and on nothing else.

    Weights are left out, and so are tokens that the attention mask leaves out: an example padded to another length has
    the same digest.

    Example:
      >>> ids, mask = jnp.array([[5, 7, 0], [5, 7, 1]]), jnp.array([[1, 1, 0], [1, 1, 0]])
      >>> one, other = row_digests({"input_ids": ids, "attention_mask": mask}).tolist()
      >>> one == other
      True
    """
    total = jnp.zeros(rows(batch), jnp.uint32)
    mask = batch.get("attention_mask")
    for order, (field, values) in enumerate(sorted(batch.items())):
        if field == "weights" or field.endswith("_share"):
            continue
        if hasattr(values, "items"):
            total = _mixed(total + jnp.uint32(order + 1) * row_digests(values))
            continue
        values = jnp.asarray(values)
        if jnp.issubdtype(values.dtype, jnp.floating):
            bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
        else:
            # One more than the value, so that a zero counts and what is masked does not.
            bits = values.astype(jnp.uint32) + jnp.uint32(1)
        if mask is not None and bits.shape == mask.shape:
            bits = jnp.where(mask > 0, bits, 0)
        bits = _mixed(bits).reshape(len(total), -1)
        factors = _mixed(jnp.arange(bits.shape[1], dtype=jnp.uint32) + jnp.uint32(0x9E3779B9)) | jnp.uint32(1)
        total = _mixed(total + jnp.sum(bits * factors, axis=1, dtype=jnp.uint32) * jnp.uint32(2 * order + 1))
    return total


def _mixed(x):
    """A permutation of 32-bit numbers that keeps 0 (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
