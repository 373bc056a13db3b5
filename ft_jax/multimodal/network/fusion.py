"""From the tokens of several modalities, any of them missing, to one vector an example.

Each fusion is a pair of functions: parameters from a key, and ``(params, tokens, masks, present) -> [batch, width]``.

- tokens: ``{modality: [batch, time, width]}`` in one width; masks: ``[batch, time]``, 0 on what is no token; present:
  ``[batch]``, 0 where the example has no such modality.
- What is missing has no part in any sum, softmax or mean. So an example without a modality is answered as by the same
  model without it, and what stands in its place in the batch does not matter.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.params import Params, digest
from ft_jax.core.weights import matmul

Tokens = Mapping[str, Float[Array, "batch time width"]]
Flags = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """One kind.

    Attributes:
      init: ``(key, modalities, width, options) -> parameters``.
      fuse: ``(params, tokens, masks, present, options) -> [batch, width]``.
      options: its choices with their defaults.
    """

    init: Callable[..., Params]
    fuse: Callable[..., Float[Array, "batch width"]]
    options: Mapping[str, int] = dataclasses.field(default_factory=dict)


def pooled_tokens(tokens, mask) -> Float[Array, "batch width"]:
    """The mean over what is real, 0 where nothing is."""
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(tokens.astype(jnp.float32) * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def _dense(key, inputs: int, outputs: int, bias: bool = True) -> Params:
    kernel = {"kernel": jax.random.normal(key, (inputs, outputs)) / math.sqrt(inputs)}
    return kernel | ({"bias": jnp.zeros(outputs)} if bias else {})


def _through(params: Params, x):
    return matmul(params["kernel"], x, params.get("bias"))


def _norm(x):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + 1e-6)


def _for_each(key, modalities, make):
    return {name: make(jax.random.fold_in(key, digest(name))) for name in modalities}


def _concatenation_init(key, modalities, width, options):
    return {
        "parts": _for_each(key, modalities, lambda own: _dense(own, width, width, bias=False)),
        "bias": jnp.zeros(width),
    }


def _concatenation(params, tokens, masks, present, options):
    """A layer over ``[x_1; …; x_M]``, block by block: a part that is missing has no block."""
    total = params["bias"]
    for name, own in tokens.items():
        total = total + present[name][:, None] * _through(params["parts"][name], pooled_tokens(own, masks[name]))
    return jax.nn.gelu(total)


def _gate_init(key, modalities, width, options):
    first, second = jax.random.split(key)
    return {
        "parts": _for_each(first, modalities, lambda own: _dense(own, width, width)),
        "gates": _for_each(second, modalities, lambda own: _dense(own, width, 1)),
    }


def _gate(params, tokens, masks, present, options):
    """``Σ_m g_m tanh(W_m x_m)`` with ``g = softmax_m(v_m · x_m)`` over those that are there (Arevalo et al. 2017)."""
    pooled = {name: pooled_tokens(own, masks[name]) for name, own in tokens.items()}
    scores = jnp.concatenate([_through(params["gates"][name], x) for name, x in pooled.items()], axis=-1)
    values = jnp.stack([jnp.tanh(_through(params["parts"][name], x)) for name, x in pooled.items()], axis=1)
    return jnp.sum(
        _softmax_of(scores, jnp.stack([present[name] for name in pooled], axis=1))[..., None] * values, axis=1
    )


def _softmax_of(scores, there):
    """A softmax over where `there` is not 0; zeros where it is nowhere."""
    scores = jnp.where(there > 0, scores, -1e30)
    weights = jnp.where(there > 0, jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))), 0.0)
    return weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)


def _mean_init(key, modalities, width, options):
    return {"parts": _for_each(key, modalities, lambda own: _dense(own, width, width, bias=False))}


def _mean(params, tokens, masks, present, options):
    """The mean of unit vectors in one space, of those that are there."""
    total, count = 0.0, 0.0
    for name, own in tokens.items():
        x = _through(params["parts"][name], pooled_tokens(own, masks[name]))
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
        total, count = total + present[name][:, None] * x, count + present[name]
    return total / jnp.maximum(count, 1.0)[:, None]


def _attention_init(key, width):
    keys = jax.random.split(key, 4)
    return {
        part: _dense(one, width, width) for part, one in zip(("query", "key", "value", "output"), keys, strict=True)
    }


def _attend(params, x, source, allowed, heads):
    """Multi-head attention ``[batch, time, width]``; zeros where a query may see nothing."""

    def split(part, values):
        values = _through(params[part], values)
        return values.reshape(*values.shape[:2], heads, -1)

    query, keys, values = split("query", x), split("key", source), split("value", source)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) * query.shape[-1] ** -0.5
    mixed = jnp.einsum("bhqk,bkhd->bqhd", _softmax_of(scores, allowed[:, None]), values)
    seen = jnp.any(allowed > 0, axis=-1)[..., None]
    return jnp.where(seen, _through(params["output"], mixed.reshape(*x.shape)), 0.0)


def _mlp_init(key, width):
    first, second = jax.random.split(key)
    return {"up": _dense(first, width, 2 * width), "down": _dense(second, 2 * width, width)}


def _mlp(params, x):
    return _through(params["down"], jax.nn.gelu(_through(params["up"], x)))


def _joined(params, tokens, masks, present):
    """All tokens in a row with their modality's vector added, where they are real, and which modality each is of."""
    rows, real, of = [], [], []
    for place, (name, own) in enumerate(tokens.items()):
        rows.append(own + params["modalities"][name])
        real.append(masks[name] * present[name][:, None])
        of += [place] * own.shape[1]
    return jnp.concatenate(rows, axis=1), jnp.concatenate(real, axis=1), jnp.array(of)


def _modality_vectors(key, modalities, width):
    return _for_each(key, modalities, lambda own: 0.02 * jax.random.normal(own, (width,)))


def _cross_init(key, modalities, width, options):
    keys = jax.random.split(key, 3)
    return {
        "modalities": _modality_vectors(keys[0], modalities, width),
        "attention": _attention_init(keys[1], width),
        "mlp": _mlp_init(keys[2], width),
    }


def _cross(params, tokens, masks, present, options):
    """Every modality's tokens look at the others' (co-attention, Lu et al. 2019), and the mean over what is real."""
    x, real, of = _joined(params, tokens, masks, present)
    others = (of[:, None] != of[None, :]).astype(jnp.float32) * real[:, None, :]
    normal = _norm(x)
    x = x + _attend(params["attention"], normal, normal, others, options["heads"])
    x = x + _mlp(params["mlp"], _norm(x))
    return pooled_tokens(_norm(x), real)


def _resampler_init(key, modalities, width, options):
    keys = jax.random.split(key, 2 + 2 * options["layers"])
    layers = {
        str(layer): {
            "attention": _attention_init(keys[2 + 2 * layer], width),
            "mlp": _mlp_init(keys[3 + 2 * layer], width),
        }
        for layer in range(options["layers"])
    }
    latents = 0.02 * jax.random.normal(keys[0], (options["latents"], width))
    return {"modalities": _modality_vectors(keys[1], modalities, width), "latents": latents, "layers": layers}


def _resampler(params, tokens, masks, present, options):
    """Latents look at all tokens and at each other, layer by layer (Alayrac et al. 2022, Perceiver resampler)."""
    source, real, _ = _joined(params, tokens, masks, present)
    latents = jnp.broadcast_to(params["latents"], (source.shape[0], *params["latents"].shape))
    allowed = jnp.concatenate([real, jnp.ones(latents.shape[:2])], axis=1)[:, None, :]
    allowed = jnp.broadcast_to(allowed, (source.shape[0], latents.shape[1], allowed.shape[-1]))
    for name in sorted(params["layers"], key=int):
        layer, normal = params["layers"][name], _norm(latents)
        seen = jnp.concatenate([_norm(source), normal], axis=1)
        latents = latents + _attend(layer["attention"], normal, seen, allowed, options["heads"])
        latents = latents + _mlp(layer["mlp"], _norm(latents))
    return _norm(latents).mean(axis=1)


FUSIONS: Mapping[str, Fusion] = {
    "concatenation": Fusion(_concatenation_init, _concatenation),
    "gate": Fusion(_gate_init, _gate),
    "mean": Fusion(_mean_init, _mean),
    "cross_attention": Fusion(_cross_init, _cross, {"heads": 4}),
    "resampler": Fusion(_resampler_init, _resampler, {"heads": 4, "latents": 8, "layers": 2}),
}
"""The kinds of fusion by name."""


def options_of(kind: str, given: Mapping[str, int], width: int, modalities: Sequence[str]) -> dict[str, Any]:
    """A fusion's choices, those that are given in place of its defaults.

    Raises:
      ValueError: an unknown kind or choice, heads that don't divide the width, or too few modalities.
    """
    if kind not in FUSIONS:
        raise ValueError(f"fusion {kind!r} is unknown; use {', '.join(map(repr, FUSIONS))}")
    known = FUSIONS[kind].options
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"fusion {kind!r} has no {unknown[0]!r}; it has {', '.join(known) or 'no choices'}")
    options = {**known, **given}
    wrong = [name for name, value in options.items() if value < 1]
    if wrong:
        raise ValueError(f"fusion {kind!r} has {wrong[0]}={options[wrong[0]]}; give a number of at least 1")
    if width % options.get("heads", 1):
        raise ValueError(f"fusion {kind!r} has heads={options['heads']}, which don't divide the width {width}")
    if not modalities:
        raise ValueError("a multimodal model needs at least one modality; give it an encoder")
    return options
