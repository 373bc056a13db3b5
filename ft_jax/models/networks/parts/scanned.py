"""Layers of a network one after another, each with parameters of its own, or stacked and run in one scan."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ft_jax.core.grafts import Holder
from ft_jax.core.mesh import split_by_example
from ft_jax.models.networks.parts.layers import grafts_of, rematerialise, subkey
from ft_jax.models.networks.parts.stacking import STACKED

Run = Callable[..., tuple[Array, dict[str, Array]]]

UNROLLED = 64
"""The most layers that `ft_jax.models.load` leaves unrolled.

A scan compiles in the time of one layer and unrolled layers in a time that grows with them, once for each machine; the
scan then moves more bytes in every step, and holds more (docs/performance.md, "Depth"). Parameters are stacked or not,
so the choice depends on the model alone and not on the device, or a checkpoint would fit one device and not another.
"""


def deep(config) -> bool:
    """Whether a network has more layers than `UNROLLED` and can run them in one scan."""
    return hasattr(config, "scan") and config.layers > UNROLLED


def held(layers: Sequence[nnx.Module], *, scan: bool) -> nnx.Dict:
    """`layers` under their numbers, or under ``scan`` as one module whose leaves have a leading axis of layers."""
    if not scan:
        return nnx.Dict({str(number): layer for number, layer in enumerate(layers)})
    graph, _ = nnx.split(layers[0])
    states = [nnx.to_pure_dict(nnx.split(layer)[1]) for layer in layers]
    return nnx.Dict({STACKED: nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))})


def in_order(layers: nnx.Dict) -> list[tuple[str, nnx.Module]]:
    """The ``(name, layer)`` pairs by number, stacked layers taken apart; flax gives "10" before "2"."""
    if STACKED not in layers:
        return sorted(layers.items(), key=lambda item: int(item[0]))
    leaves, make = _apart(layers[STACKED])
    return [(str(i), make(jax.tree.map(lambda leaf, i=i: leaf[i], leaves))) for i in range(_count(leaves))]


def run_layers(layers: nnx.Dict, hidden, config, key, arguments, skip: int = 0, first: int | None = None):
    """The residual stream through layers one after another, each rematerialised as ``config.remat`` says.

    Args:
      layers: of `held`; a layer takes the stream, ``key`` and its arguments and gives the stream and what it collects
        by name (None of it is left out).
      hidden: the stream, ``[batch, time, width]``.
      config: with ``remat`` and ``collect``.
      key: for dropout, or None.
      arguments: a layer's further keyword arguments, by its number; of stacked layers, those of number 0 serve all.
      skip: virtual tokens in front, which the collected states leave out.
      first: run so many layers alone; None for all.

    Returns:
      The stream, and what ``config.collect`` asks for of every layer, by name; with ``"hidden"`` the stream before
      the first too, as ``"embeddings"``.
    """

    def run(layer, number, offset, hidden):
        def whole(hidden):
            return layer(hidden, key=subkey(key, number), **arguments(offset))

        hidden, found = rematerialise(whole, config.remat)(split_by_example(hidden))
        found = {what: state for what, state in found.items() if state is not None}
        if "hidden" in config.collect:
            found["layers"] = hidden[:, skip:]
        return hidden, found

    states = {"embeddings": hidden[:, skip:]} if "hidden" in config.collect else {}
    if STACKED in layers:
        hidden, found = scan_layers(layers[STACKED], run, hidden, first=first)
        return hidden, states | found
    for name, layer in in_order(layers)[:first]:
        hidden, found = run(layer, int(name), int(name), hidden)
        states |= {f"{what}/{name}": state for what, state in found.items()}
    return hidden, states


def scan_layers(stacked: nnx.Module, run: Run, hidden, period: int = 1, first: int | None = None):
    """Stacked layers in one scan over their periods; a last, shorter one follows unrolled.

    Args:
      stacked: all layers as one module.
      run: ``run(layer, number, offset, hidden)`` gives the stream after a layer and what it collects by name; the
        number is traced, the offset, its place in the period, is not.
      hidden: the stream.
      period: after how many layers their kinds repeat.
      first: run so many layers alone; None for all.

    Returns:
      The stream and the collected states as ``"<what>/<layer>"``.
    """
    leaves, make = _apart(stacked)
    leaves = jax.tree.map(lambda leaf: leaf[:first], leaves)
    layers = _count(leaves)
    whole = layers // period

    def several(hidden, leaves, begin, count):
        found = []
        for offset in range(count):
            layer = make(jax.tree.map(lambda leaf, at=offset: leaf[at], leaves))
            hidden, collected = run(layer, begin + offset, offset, hidden)
            found.append(collected)
        return hidden, jax.tree.map(lambda *states: jnp.stack(states), *found)

    def body(hidden, step):
        leaves, begin = step
        return several(hidden, leaves, begin, period)

    periods = jax.tree.map(lambda leaf: leaf[: whole * period].reshape(whole, period, *leaf.shape[1:]), leaves)
    hidden, collected = jax.lax.scan(body, hidden, (periods, jnp.arange(whole) * period))
    collected = jax.tree.map(lambda states: states.reshape(whole * period, *states.shape[2:]), collected)
    rest = layers - whole * period
    if rest:
        last = jax.tree.map(lambda leaf: leaf[whole * period :], leaves)
        hidden, more = several(hidden, last, whole * period, rest)
        collected = jax.tree.map(lambda *states: jnp.concatenate(states), collected, more)
    return hidden, {f"{what}/{i}": found[i] for what, found in collected.items() for i in range(layers)}


def _apart(stacked: nnx.Module):
    """Stacked layers as ``(parameters and grafts, function that makes a layer out of one of them)``."""
    graph, state = nnx.split(stacked)
    grafts = {path: module.grafts.grafts for path, module in nnx.iter_modules(stacked) if grafts_of(module)}

    def layer(leaves):
        parameters, own = leaves
        made = nnx.merge(graph, parameters)
        for path, module in nnx.iter_modules(made):
            if path in own:
                module.grafts = Holder(own[path])
        return made

    return (nnx.to_pure_dict(state), grafts), layer


def _count(leaves) -> int:
    return jax.tree.leaves(leaves)[0].shape[0]
