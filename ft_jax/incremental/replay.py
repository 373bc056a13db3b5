"""Experience replay from a reservoir on the device."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.state import Batch, StepEvent
from ft_jax.incremental.examples import STREAMS, examples, layout, no_rows

MOST = 2**31 - 1
"""How many examples an int32 can count. A stream that is longer goes on as if it had this many."""


@register(
    "incremental",
    paper="Chaudhry et al. 2019, arXiv:1902.10486; the reservoir is algorithm R of Vitter 1985",
    example=lambda problem: replay(capacity=6, size=4, example=problem.batch, weight=0.05),
    neutral=Neutral({"weight": 0.0}),
)
def replay(
    capacity: int, size: int, example: Batch, weight: float = 1.0, *, name: str = "incremental.replay"
) -> Method:
    """Trains on examples of the past, drawn from a buffer that is a uniform sample of all that were seen.

    Adds the term ``weight · Σ terms(replayed)``: the loss inside, on `size` examples drawn uniformly and with
    replacement from the buffer. It is 0 while the buffer is empty, and evaluation leaves it out. After
    each step the batch's examples enter the buffer by algorithm R: example ``t`` (from 0) takes slot ``t``
    while there is room, and later slot ``j ~ uniform{0..t}`` if ``j < capacity``, so that each of ``n`` seen
    examples is in the buffer with probability ``capacity / n``. Examples whose weights are all 0 (padding)
    don't enter.

    Name it after (inside) penalties such as EWC's, which would otherwise be counted again on the replayed
    examples. Inside a method that makes the batch episodes or preferences it remembers the examples of
    support and query, or the chosen answers.

    Args:
      capacity: examples the buffer holds. It is part of the train state, and members have one each.
      size: examples replayed in each step.
      example: one batch; the names, types and shapes ``[batch, ...]`` of the fields to remember.
      weight: of the replayed loss.
      name: the method's name; ``memory[name]`` is ``{"buffer": fields [capacity, ...], "seen": int32}``.

    Raises:
      ValueError: a capacity or size below 1.
      KeyError: in the first step, when the batch lacks a field of `example`.

    Example:
      >>> batch = {"input_ids": jnp.zeros((2, 5), jnp.int32), "labels": jnp.zeros(2, jnp.int32)}
      >>> method = replay(capacity=100, size=8, example=batch)
      >>> method.memory(None, None)["buffer"]["input_ids"].shape
      (100, 5)
    """
    like = rows_like(example)
    return rehearsal(
        name, capacity, size, like, weight, lambda memory, batch, event, numbers: insert(memory, batch, event.key)
    )


def rehearsal(
    name: str,
    capacity: int,
    size: int,
    like: Batch,
    weight: float,
    admit: Callable[[Any, Batch, StepEvent, Mapping[str, Any]], Any],
    more: Mapping[str, Any] = MappingProxyType({}),
    **parts: Any,
) -> Method:
    """Replay of examples drawn uniformly from a buffer, whatever decides which examples are in it.

    Args:
      name: of the method.
      capacity, size, weight: see `replay`.
      like: the fields to remember, see `rows_like`.
      admit: ``(memory, batch, event, numbers) -> memory`` after a step; the key of ``event`` is the buffer's own.
      more: what the memory has besides ``"buffer"`` and ``"seen"``, as it begins.
      **parts: of the method; ``hyper`` adds to its numbers.

    Raises:
      ValueError: a capacity or size below 1.
    """
    if capacity < 1 or size < 1:
        raise ValueError(f"{name} has capacity {capacity} and replays {size}; give both at least 1")

    def memory(params, key):
        buffer = jax.tree.map(lambda one: jnp.zeros((capacity, *one.shape[1:]), one.dtype), like)
        return {"buffer": buffer, "seen": jnp.int32(0), **jax.tree.map(jnp.asarray, dict(more))}

    def loss(inner):
        def replayed(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if not context.train:
                return terms, outputs
            past, seen = context.memory[name]["buffer"], context.memory[name]["seen"]
            rows = jax.random.randint(context.key_for(name), (size,), 0, jnp.clip(seen, 1, capacity))
            own = context.replace(local_key=jax.random.fold_in(context.local_key, digest(name)))
            again, _ = inner(params, jax.tree.map(lambda x: x[rows], past), own)
            value = sum(again.values(), start=jnp.float32(0))
            return {**terms, name: context.hyper[name]["weight"] * jnp.where(seen > 0, value, 0.0)}, outputs

        return replayed

    def after_step(state, event):
        key = jax.random.fold_in(event.key, digest(f"{name}/reservoir"))
        batch = remembered(event.batch, like, name)
        return state.remember(
            name, admit(state.memory[name], batch, dataclasses.replace(event, key=key), state.hyper[name])
        )

    hyper = {"weight": weight, **parts.pop("hyper", {})}
    return Method(
        name=name,
        hyper=hyper,
        memory=memory,
        loss=loss,
        after_step=after_step,
        **{"reads": layout(like), "refuses": no_rows(name), **parts},
    )


def capacity_within(mib: float, example: Batch) -> int:
    """How many examples fit in a budget of device memory.

    Args:
      mib: the budget in MiB.
      example: one batch, whose fields are remembered.

    Raises:
      ValueError: the budget holds no example.

    Example:
      >>> capacity_within(1, {"x": jnp.zeros((2, 64)), "labels": jnp.zeros(2, jnp.int32)})
      4032
    """
    each = sum(
        math.prod(leaf.shape[1:]) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(rows_like(example))
    )
    capacity = int(mib * 2**20 // each)
    if capacity < 1:
        raise ValueError(
            f"a budget of {mib:g} MiB holds no example, one has {each} bytes; give at least {each / 2**20:.2g}"
        )
    return capacity


def rows_like(example: Batch) -> Batch:
    """The names, types and shapes of the fields of `example` that a memory keeps."""
    fields = {field: x for field, x in example.items() if field not in STREAMS}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), fields)


def remembered(batch: Batch, like: Batch, name: str) -> Batch:
    """The examples of `batch` with the fields of `like` alone.

    Raises:
      KeyError: a batch that lacks one.
    """
    found = examples(batch, like)
    if found is None:
        missing = next((field for field in like if field not in batch), None)
        raise KeyError(
            f"{name} remembers field {missing!r}, but the batch has {', '.join(batch)}; build it with an "
            "example like the batches that it trains on"
        )
    return _restrict(found, like)


def insert(memory, batch: Batch, key: jax.Array):
    """A reservoir after the examples of `batch`, one after another, by algorithm R.

    Args:
      memory: ``{"buffer": fields [capacity, ...], "seen": int32}``.
      batch: fields ``[batch, ...]``.
      key: for the slots.

    Example:
      >>> empty = {"buffer": {"x": jnp.zeros(3)}, "seen": jnp.int32(0)}
      >>> insert(empty, {"x": jnp.array([7.0, 8.0])}, jax.random.key(0))["buffer"]["x"].tolist()
      [7.0, 8.0, 0.0]
    """
    buffer, seen = memory["buffer"], memory["seen"]
    capacity, count = jax.tree.leaves(buffer)[0].shape[0], jax.tree.leaves(batch)[0].shape[0]
    enters = _counted(batch, count)
    before = jnp.minimum(seen, MOST - count) + jnp.cumsum(enters, dtype=jnp.int32) - enters
    slots = jnp.where(before < capacity, before, jax.random.randint(key, (count,), 0, before + 1))
    slots = jnp.where(enters, slots, capacity)
    # Of several examples for one slot the last stays, as if they had come one by one.
    order = jnp.arange(count)
    last = jnp.full(capacity, -1).at[slots].max(order, mode="drop")
    stays = (slots < capacity) & (last[jnp.minimum(slots, capacity - 1)] == order)
    slots = jnp.where(stays, slots, capacity)
    buffer = jax.tree.map(lambda old, new: old.at[slots].set(new.astype(old.dtype), mode="drop"), buffer, batch)
    return {"buffer": buffer, "seen": jnp.minimum(seen, MOST - count) + jnp.sum(enters, dtype=jnp.int32)}


def _counted(batch, count: int):
    if "weights" not in batch:
        return jnp.ones(count, jnp.int32)
    return jnp.any(batch["weights"].reshape(count, -1) > 0, axis=1).astype(jnp.int32)


def _restrict(batch, like):
    """The fields of `batch` that `like` has, nested ones too."""
    return {
        field: _restrict(batch[field], one) if isinstance(one, Mapping) else batch[field] for field, one in like.items()
    }
