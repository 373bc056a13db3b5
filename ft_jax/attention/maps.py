"""Attention maps of a model's outputs."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.outputs import Outputs
from ft_jax.core.outputs import real_tokens as marked_real

KIND = "attention"


def maps_of(outputs: Outputs) -> dict[int, Array]:
    """The maps ``[batch, heads, queries, keys]`` among an output's states, by the layer's number, in order."""
    named = {key.removeprefix(f"{KIND}/"): value for key, value in outputs.states.items() if key.startswith(f"{KIND}/")}
    return {int(layer): named[layer] for layer in sorted(named, key=lambda layer: layer.zfill(9)) if layer.isdigit()}


def attention_maps(
    outputs: Outputs, time: int | None, layers: Sequence[int] | None = None, name: str = KIND
) -> list[Float[Array, "batch heads time time"]]:
    """The maps of chosen layers among the real tokens, virtual tokens and prefixes cut off.

    Args:
      outputs: of a model that collects ``"attention"``.
      time: how many real tokens a row has; None where there are no others.
      layers: their numbers, negative ones from the end; None for all.
      name: who asks, for the error.

    Raises:
      ValueError: outputs without maps, or without a layer's.
    """
    maps = maps_of(outputs)
    if not maps:
        raise ValueError(
            f"{name} reads attention maps, which this model's outputs don't have; give the loss the apply of a model "
            "that can collect them, or outputs with states 'attention/<layer>'"
        )
    count = max(maps) + 1
    numbers = list(maps) if layers is None else [layer % count if layer < 0 else layer for layer in layers]
    missing = [layer for layer in numbers if layer not in maps]
    if missing:
        raise ValueError(
            f"{name} reads the attention map of layer {missing[0]}, and the model has those of {list(maps)}"
        )
    kept = slice(None) if time is None else slice(-time, None)
    return [maps[layer][..., kept, kept] for layer in numbers]


def real_tokens(batch: Mapping[str, Array], maps: Float[Array, "batch heads time time"]) -> Float[Array, "batch time"]:
    """1 where a token of `maps` is real: those of ``attention_mask``, else of ``segment_ids``, else all."""
    real = marked_real(batch)
    return jnp.ones((maps.shape[0], maps.shape[-1]), jnp.float32) if real is None else real.astype(jnp.float32)
