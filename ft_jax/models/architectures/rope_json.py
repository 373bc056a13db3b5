"""Rotary positions in config.json, in the forms that transformers 4 and 5 write."""

from collections.abc import Mapping
from typing import Any

from ft_jax.models.architectures.naming import required
from ft_jax.models.networks.decoder_config import DecoderConfig
from ft_jax.models.networks.parts.rope import Dynamic, Linear, Llama3, LongRope, RopeScaling, Yarn
from ft_jax.outside import printable

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def read_rope(json: Mapping[str, Any], layer_type: str | None = None) -> tuple[float, RopeScaling | None]:
    """Base of the frequencies and their scaling.

    Args:
      json: config.json, with ``rope_theta``, ``max_position_embeddings`` and, where there is a scaling,
        ``rope_parameters`` (transformers 5) or ``rope_scaling`` (4).
      layer_type: which entry of nested ``rope_parameters`` (Gemma 3) is read, if they are.

    Raises:
      ValueError: on a scaling that is unknown or lacks a number.
    """
    nested = json.get("rope_parameters") or {}
    rope = {**(json.get("rope_scaling") or {}), **nested.get(layer_type, nested)}
    theta = rope.get("rope_theta", json.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind)
    longest = json.get("max_position_embeddings", 2048)

    def number(name):
        return required(rope, name, f"rope scaling {kind!r} in config.json")

    def original():
        return rope.get("original_max_position_embeddings") or json.get("original_max_position_embeddings", longest)

    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, Linear(number("factor"))
    if kind == "dynamic":
        return theta, Dynamic(number("factor"), longest)
    if kind == "llama3":
        return theta, Llama3(
            factor=number("factor"),
            low_frequency_factor=number("low_freq_factor"),
            high_frequency_factor=number("high_freq_factor"),
            original_positions=number("original_max_position_embeddings"),
        )
    if kind == "yarn":
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            raise ValueError("config.json has yarn scaling with mscale and mscale_all_dim, which is not known here")
        factor = rope.get("factor") or longest / original()
        return theta, Yarn(
            factor,
            original(),
            fast=rope.get("beta_fast") or 32.0,
            slow=rope.get("beta_slow") or 1.0,
            attention_factor=rope.get("attention_factor"),
            whole=rope.get("truncate", True),
        )
    if kind == "longrope":
        return theta, LongRope(
            rope.get("factor") or longest / original(),
            original(),
            short=tuple(number("short_factor")),
            long=tuple(number("long_factor")),
            attention_factor=rope.get("attention_factor"),
        )
    raise ValueError(f"config.json has rope scaling {printable(kind)}; known are {', '.join(map(repr, KINDS))}")


def rope_entry(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The ``rope_parameters`` entry that `read_rope` reads."""
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    entry = {"rope_theta": theta, "factor": scaling.factor}
    if isinstance(scaling, Linear):
        return entry | {"rope_type": "linear"}
    if isinstance(scaling, Dynamic):
        return entry | {"rope_type": "dynamic"}
    entry["original_max_position_embeddings"] = scaling.original_positions
    if isinstance(scaling, Llama3):
        return entry | {
            "rope_type": "llama3",
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
        }
    if scaling.attention_factor is not None:
        entry["attention_factor"] = scaling.attention_factor
    if isinstance(scaling, Yarn):
        return entry | {
            "rope_type": "yarn",
            "beta_fast": scaling.fast,
            "beta_slow": scaling.slow,
            "truncate": scaling.whole,
        }
    return entry | {"rope_type": "longrope", "short_factor": list(scaling.short), "long_factor": list(scaling.long)}


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """The rotary entries of config.json, for transformers 4 and 5 alike."""
    entry = rope_entry(config.rope_theta, config.rope_scaling)
    older = None if config.rope_scaling is None else {**entry, "type": entry["rope_type"]}
    return {"rope_theta": config.rope_theta, "rope_parameters": entry, "rope_scaling": older}
