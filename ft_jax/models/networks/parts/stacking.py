"""Parameters of layers that run in one scan, and of layers that don't, each made from the other."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.params import map_with_path, paths

STACKED = "stacked"

LAYER = re.compile(r"(^|/)layers/(\d+)/")
"""Where a path says which layer it is in."""


def stack_layers(params: Mapping[str, Any]) -> dict:
    """``layers/0/…, layers/1/…`` as ``layers/stacked/…`` with a leading axis of layers.

    Each ``layers`` is stacked by itself where a network has several (two towers, an encoder and a decoder). What
    methods put on the layers (operators, grafts) is stacked with them. Parameters that are stacked already come back
    as they are.

    Args:
      params: a model's, arrays or `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: where the layers differ in their operators or shapes, so that one scan can't run them all.

    Example:
      >>> params = {"layers": {"0": {"a": jnp.ones(2)}, "1": {"a": jnp.ones(2)}}}
      >>> stack_layers(params)["layers"]["stacked"]["a"].shape
      (2, 2)
    """
    return _map_layers(params, _stacked)


def unstack_layers(params: Mapping[str, Any]) -> dict:
    """The inverse of `stack_layers`; parameters that are not stacked, or have no layers, come back as they are."""
    return _map_layers(params, _unstacked)


def stack_each(
    names: Iterable[str],
    parameter: Callable[[str], Any],
    sharding: Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None],
) -> dict[str, Any]:
    """Parameters by path, those of layers stacked one after another, so that only one of them is there twice.

    Args:
      names: the paths of a network whose layers are apart, such as ``"layers/0/mlp/up/kernel"``.
      parameter: makes the one at a path, an array or an operator.
      sharding: of the stacked arrays, by path and shape; None for the default device.

    Raises:
      ValueError: where a parameter has another form in some layers (quantised in some of them).

    Example:
      >>> read = stack_each(["layers/0/a", "layers/1/a"], lambda path: jnp.ones(3), lambda path, shape: None)
      >>> read["layers/stacked/a"].shape
      (2, 3)
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(LAYER.sub(rf"\1layers/{STACKED}/", name), []).append(name)
    return {path: _stack_one(path, members, parameter, sharding) for path, members in groups.items()}


def _stack_one(path, members, parameter, sharding):
    if f"layers/{STACKED}/" not in path:
        return parameter(members[0])
    members = sorted(members, key=lambda name: int(LAYER.search(name)[2]))
    pieces = [parameter(name) for name in members]
    for name, piece in zip(members, pieces, strict=True):
        if _outline(piece) != _outline(pieces[0]):
            raise ValueError(
                f"{name} has another form than {members[0]} ({_difference(pieces[0], piece)}), so one scan can't run "
                "both; pass scan=False"
            )

    def place(inner, leaf):
        return sharding(f"{path}/{inner}" if inner else path, (len(pieces), *leaf.shape))

    targets = map_with_path(place, pieces[0])
    # Transfers and copies run on their own; waiting keeps what is stacked from piling up.
    return jax.block_until_ready(jax.jit(lambda *pieces: jax.tree.map(_stack, *pieces), out_shardings=targets)(*pieces))


def _map_layers(params, change):
    """`params` with every ``layers`` of it changed: a network may have several (two towers, encoder and decoder)."""
    return {
        name: (change(child) if name == "layers" else _map_layers(child, change))
        if isinstance(child, Mapping)
        else child
        for name, child in params.items()
    }


def _stacked(layers):
    if STACKED in layers:
        return dict(layers)
    ordered = [layers[name] for name in sorted(layers, key=int)]
    first = _outline(ordered[0])
    for number, layer in enumerate(ordered):
        if _outline(layer) != first:
            raise ValueError(
                f"layers 0 and {number} differ ({_difference(ordered[0], layer)}), so they can't run in one scan; "
                "put the same operators on every layer, or leave scan off"
            )
    return {STACKED: jax.tree.map(_stack, *ordered)}


def _unstacked(layers):
    if STACKED not in layers:
        return dict(layers)
    stacked = layers[STACKED]
    count = jax.tree.leaves(stacked)[0].shape[0]
    return {str(i): jax.tree.map(lambda leaf, i=i: _layer(leaf, i), stacked) for i in range(count)}


def _outline(layer):
    return jax.tree.structure(layer), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(layer)]


def _difference(first, second) -> str:
    only = sorted(set(paths(first)) ^ set(paths(second)))
    return f"{only[0]} is on one of them" if only else "in the shapes or settings of their operators"


def _stack(*leaves):
    first = leaves[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *first.shape), first.dtype)
    return jnp.stack(leaves)


def _layer(leaf, index):
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[index]
