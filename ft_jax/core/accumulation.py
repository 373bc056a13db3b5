"""Averages over micro-batches, also of losses that compare the examples of the whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import Batch, rows
from ft_jax.core.state import direct

Shard = Callable[[Batch, jax.Array | int, Callable], Any]
"""``(micro-batch, its number, coupling) -> (what is averaged, what is kept for every example)``."""


def averaged(shard: Shard, run: Shard, batch: Batch, count: int, axis: str | None = None) -> Any:
    """What `shard` gives of `count` micro-batches: the mean of the first part, the second in the batch's order.

    Example ``i`` goes to micro-batch ``i % count``: interleaving keeps a batch that is sharded over devices where it
    is, as each device splits its own rows.

    Where the loss couples examples (`ft_jax.core.state.Context.couple`) this is GradCache (Gao et al. 2021,
    arXiv:2101.06983): a pass forward collects the coupled rows of all micro-batches, the coupled values and their
    gradients by those rows are formed once for the whole batch, and a second pass with the same keys takes them back
    through the network, one micro-batch at a time.

    Args:
      shard: a micro-batch's share, with gradients.
      run: the same loss without them, for its couplings alone.
      batch: with shares.
      count: of micro-batches.
      axis: the mapped device axis.

    Raises:
      ValueError: a batch that does not divide.
    """
    if count == 1:
        return shard(batch, 0, direct)
    if rows(batch) % count:
        raise ValueError(f"a batch of {rows(batch)} does not divide into {count} micro-batches; change one of them")
    pieces = jax.tree.map(lambda x: _split(x, count), dict(batch))
    numbers = jnp.arange(count)
    seen = _Recorder(axis)
    averages, _ = jax.eval_shape(lambda piece: shard(piece, 0, seen), jax.tree.map(lambda x: x[0], pieces))
    coupling = _Replay(_coupled(run, pieces, numbers, axis), count) if seen.calls else direct

    def body(sums, piece):
        number, piece = piece
        own = coupling.piece(number) if seen.calls else direct
        averages, kept = shard(piece, number, own)
        return jax.tree.map(jnp.add, sums, averages), kept

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), averages)
    sums, kept = jax.lax.scan(body, zeros, (numbers, pieces))
    return jax.tree.map(lambda x: x / count, sums), jax.tree.map(_join, kept)


def _split(x, count: int):
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)


def _join(x):
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


class _Recorder:
    """A coupling that notes what is coupled, and gives zeros."""

    def __init__(self, axis):
        self.axis, self.functions, self.calls = axis, [], []

    def __call__(self, function, rows, shared, aligned, axis):
        self.functions.append((function, axis))
        self.calls.append((rows, shared, aligned))
        shapes = jax.eval_shape(lambda *arguments: direct(function, *arguments, axis), rows, shared, aligned)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _coupled(run, pieces, numbers, axis) -> list:
    """Of every coupled value ``(value, its gradients by the rows of each micro-batch, those by what is shared)``."""
    seen = _Recorder(axis)

    def body(_, piece):
        seen.functions.clear(), seen.calls.clear()
        number, piece = piece
        run(piece, number, seen)
        return None, list(seen.calls)

    _, calls = jax.lax.scan(body, None, (numbers, pieces))
    found = []
    for (function, axis), (own, shared, aligned) in zip(seen.functions, calls, strict=True):
        own, aligned = jax.tree.map(_join, (own, aligned))
        shared = jax.tree.map(lambda x: x[0], shared)
        value, back = jax.vjp(
            lambda own, shared, function=function, aligned=aligned, axis=axis: direct(
                function, own, shared, aligned, axis
            ),
            own,
            shared,
        )
        leaves, outline = jax.tree.flatten(value)
        slopes = []
        for index in range(len(leaves)):
            one = [jnp.ones_like(leaf) if at == index else jnp.zeros_like(leaf) for at, leaf in enumerate(leaves)]
            by_own, by_shared = back(outline.unflatten(one))
            slopes.append((jax.tree.map(lambda x: _split(x, len(numbers)), by_own), by_shared))
        found.append((value, slopes))
    return found


class _Replay:
    """A coupling that gives the whole batch's values, with their gradients through this micro-batch's rows."""

    def __init__(self, found, count: int):
        self.found, self.count = found, count

    def piece(self, number):
        """The coupling of one micro-batch."""
        calls = iter(self.found)

        def coupling(function, rows, shared, aligned, axis):
            value, slopes = next(calls)
            leaves, outline = jax.tree.flatten(value)
            through = []
            for leaf, (by_own, by_shared) in zip(leaves, slopes, strict=True):
                own = jax.tree.map(lambda x: x[number], by_own)
                # The average over micro-batches divides by their count.
                through.append(leaf + self.count * _tangent(own, rows) + _tangent(by_shared, shared))
            return outline.unflatten(through)

        return coupling


def _tangent(slopes, values):
    """0 in value, and `slopes` in its gradient by `values`."""
    products = jax.tree.map(lambda s, v: jnp.sum(s * (v - jax.lax.stop_gradient(v))), slopes, values)
    return sum(jax.tree.leaves(products), start=jnp.float32(0))
