"""Causal decoders: one network, whose configuration says which family's it is."""

import dataclasses
import functools

import jax.numpy as jnp
from flax import nnx

from ft_jax.core.mesh import split_by_example
from ft_jax.core.weights import embed
from ft_jax.models.networks.decoder_config import DecoderConfig
from ft_jax.models.networks.parts import cache
from ft_jax.models.networks.parts.attention import SelfAttention
from ft_jax.models.networks.parts.configuration import check_length
from ft_jax.models.networks.parts.experts import ExpertMLP
from ft_jax.models.networks.parts.layers import (
    LayerNorm,
    Projection,
    RMSNorm,
    activation,
    dropout,
    grafts_of,
    project,
    rematerialise,
    stays_in_sight,
    subkey,
    table,
    value,
    with_virtual,
)
from ft_jax.models.networks.parts.masks import Mask, mask_of, positions_of
from ft_jax.models.networks.parts.rope import rotary_angles
from ft_jax.models.networks.parts.scanned import held, in_order, scan_layers
from ft_jax.models.networks.parts.stacking import STACKED

__all__ = ["Decoder", "DecoderConfig"]


def norm(config: DecoderConfig) -> nnx.Module:
    """A norm over the residual stream."""
    return (RMSNorm if config.norm == "rms" else LayerNorm)(config.width, config.epsilon)


class Decoder(nnx.Module):
    """Pre-norm layers of causal attention and an MLP: Touvron et al. 2023, "LLaMA", arXiv:2302.13971, and its kin.

    Layers differ in nothing but whether they are windowed and whether they turn queries and keys (their kind, see
    `DecoderConfig.kind`); under ``scan`` each iteration runs as many layers as it takes for the kinds to repeat.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        self.layers = held([DecoderLayer(config, rngs) for _ in range(config.layers)], scan=config.scan)
        self.norm = norm(config)
        self.head = None if config.tied else Projection(config.width, config.vocabulary, bias=False, rngs=rngs)

    def __call__(self, batch, key=None):
        """``input_ids`` and, where given, masks, segments and positions of a batch.

        ``embedded [batch, time, width]`` stands in for the tokens' own embeddings (images), and tokens of a
        ``prefix`` see each other whatever their order.

        Returns:
          Hidden states ``[batch, time, width]``; the states asked for by ``config.collect``, and of a mixture of
          experts the router's logits ``"router/<layer>"``.
        """
        ids = batch["input_ids"]
        check_length(ids, self.config.positions)
        mask = mask_of(batch, causal=True)
        count, hidden, positions = self._embedded(ids, positions_of(batch), mask, key, batch.get("embedded"))
        whole = mask.grown(count, ids.shape[1], queries=True) if count else mask
        masks = {windowed: self._windowed(whole, windowed, count) for windowed in (False, True)}
        embedded = {"embeddings": hidden} if "hidden" in self.config.collect else {}
        hidden, states, _ = self._run(hidden, positions, masks, key)
        maps = ("attention/", "scores/")
        states = {name: x if name.startswith(maps) else x[:, count:] for name, x in {**embedded, **states}.items()}
        return self.norm(split_by_example(hidden[:, count:])), states

    def empty_caches(self, batch: int, slots: int, ahead: int = 0) -> dict[str, cache.Cache]:
        """Caches for `step`: every leaf is ``[batch, held, key_value_heads, head_width]``.

        Args:
          batch: sequences.
          slots: tokens a sequence has room for, prompt and continuation.
          ahead: how many tokens may be taken back again (speculative decoding). A windowed layer holds a ring of
            its window and so many more slots, if that is fewer than all.
        """
        config, count = self.config, self._virtual()
        held = {False: slots + count, True: slots + count}
        if config.window is not None and not count:
            held[True] = min(slots, config.window + ahead)
        shape = (config.key_value_heads, config.head_width, config.dtype)
        return {str(i): cache.empty(batch, held[config.kind(i)[0]], *shape) for i in range(config.layers)}

    def step(self, ids, positions, allowed, caches, index, embedded=None):
        """Some new tokens after the cached ones.

        Virtual tokens of grafts come before the first tokens, in slots of their own that no argument counts.

        Args:
          ids: ``[batch, new]`` tokens.
          positions: ``[batch, new]``.
          allowed: ``[batch, 1, new, slots]``, True where a new token may look, causality included, windows not;
            a sequence's tokens lie in neighbouring slots.
          caches: of `empty_caches` or an earlier step.
          index: the slot of the first new token, a scalar or ``[batch]``; the Python integer 0 in the first step.
          embedded: ``[batch, new, width]`` in place of the tokens' own embeddings, or None.

        Returns:
          Hidden states ``[batch, new, width]`` and the caches with the new tokens in them.
        """
        count, hidden, positions = self._embedded(ids, positions, Mask(), None, embedded)
        first = isinstance(index, int) and index == 0
        if count:
            allowed = jnp.pad(allowed, ((0, 0), (0, 0), (0, 0), (count, 0)), constant_values=True)
        if count and first:
            own = jnp.arange(count)[:, None] >= jnp.arange(allowed.shape[-1])
            own = jnp.broadcast_to(own, (allowed.shape[0], 1, *own.shape))
            allowed = jnp.concatenate([own, allowed], axis=2)
        elif count:
            hidden, positions, index = hidden[:, count:], positions[:, count:], index + count
        masks = {windowed: self._windowed(Mask(allowed), windowed, count) for windowed in (False, True)}
        hidden, _, caches = self._run(hidden, positions, masks, None, caches, index)
        return self.norm(hidden[:, count if first else 0 :]), caches

    def _virtual(self) -> int:
        """How many virtual tokens the embeddings' grafts put before the real ones."""
        nothing = jnp.zeros((1, 1, self.config.width), self.config.dtype)
        return with_virtual(self.embeddings, nothing, jnp.zeros((1, 1), jnp.int32), Mask())[0]

    def _embedded(self, ids, positions, mask, key, embedded=None):
        config = self.config
        embedded = self.embeddings(ids) if embedded is None else embedded
        count, hidden, positions, _ = with_virtual(self.embeddings, embedded, positions, mask)
        if config.learned_positions:
            check_length(positions, config.positions)
        hidden = self.embeddings.placed(hidden, positions)
        return count, dropout(hidden, config.embedding_dropout, subkey(key, config.layers)), positions

    def _windowed(self, mask, windowed, kept=0):
        if not windowed or self.config.window is None:
            return mask
        kept = kept if stays_in_sight(self.embeddings) else 0
        return dataclasses.replace(mask, window=(self.config.window - 1, 0), kept=kept)

    def _run(self, hidden, positions, masks, key, caches=None, index=None):
        """All layers: the residual stream, what they collect by name, the caches."""
        config = self.config
        angles = self._angles(positions)

        def run(layer, number, offset, hidden, cache=None):
            windowed, rotary = config.kind(offset)
            call = functools.partial(
                layer,
                mask=masks[windowed],
                angles=angles[windowed] if rotary else None,
                key=subkey(key, number),
                cache=cache,
                index=index,
            )
            return rematerialise(call, config.remat)(split_by_example(hidden))

        if config.scan and caches is None:
            return *scan_layers(self.layers[STACKED], lambda *layer: run(*layer)[:2], hidden, config.period), {}
        states, kept = {}, {}
        for name, layer in in_order(self.layers):
            cache = None if caches is None else caches[name]
            hidden, found, kept[name] = run(layer, int(name), int(name), hidden, cache)
            states |= {f"{what}/{name}": state for what, state in found.items()}
        return hidden, states, kept

    def _angles(self, positions):
        """Rotary angles of layers without and with a window."""
        config = self.config
        if config.learned_positions:
            return {False: None, True: None}
        width = config.rotary_width or config.head_width
        angles = rotary_angles(positions, width, config.rope_theta, config.rope_scaling)
        if config.local_rope_theta is None:
            return {False: angles, True: angles}
        return {False: angles, True: rotary_angles(positions, width, config.local_rope_theta)}


class Embeddings(nnx.Module):
    """Rows of the token table in the compute type, and of the table of positions where there is one."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.tokens = table(config.vocabulary, config.width, rngs)
        self.positions = table(config.positions, config.width, rngs) if config.learned_positions else None
        self.dtype, self.scale = config.dtype, config.embedding_scale

    def __call__(self, ids):
        """``[batch, time, width]`` embeddings, before positions."""
        hidden = embed(value(self.tokens), ids).astype(self.dtype)
        return hidden if self.scale is None else hidden * jnp.asarray(self.scale, self.dtype)

    def placed(self, hidden, positions):
        """The embeddings with their positions' rows added, if the model has such rows."""
        if self.positions is None:
            return hidden
        return hidden + embed(value(self.positions), positions).astype(self.dtype)


class DecoderLayer(nnx.Module):
    """``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``; Gemma normalises both summands too."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.attention_norm = norm(config)
        self.attention = SelfAttention(
            config.width,
            config.heads,
            rngs=rngs,
            key_value_heads=config.key_value_heads,
            head_width=config.head_width,
            biases=config.biases,
            output_bias=config.output_bias,
            rate=config.attention_dropout,
            scale=config.attention_scale,
            softcap=config.attention_softcap,
            norm_epsilon=config.epsilon if config.query_key_norms else None,
        )
        self.attention_post_norm = norm(config) if config.post_norms else None
        self.mlp_norm = norm(config)
        self.mlp = MLP(config, rngs) if config.experts is None else ExpertMLP(config, rngs)
        self.mlp_post_norm = norm(config) if config.post_norms else None

    def __call__(self, x, *, mask, angles, key, cache, index):
        """The residual stream after the layer, what it collects by name, its cache."""
        config = self.config
        attended, found, cache = self.attention(
            self.attention_norm(x),
            mask,
            angles=angles,
            key=subkey(key, 0),
            collect=config.collect,
            cache=cache,
            index=index,
        )
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        x = x + dropout(attended, config.dropout, subkey(key, 1))
        given = self.mlp(self.mlp_norm(x))
        if config.experts is not None:
            given, found["router"] = given
        if self.mlp_post_norm is not None:
            given = self.mlp_post_norm(given)
        x = x + dropout(given, config.dropout, subkey(key, 2))
        for graft in grafts_of(self):
            x = graft.output(x)
        if "hidden" in config.collect:
            found["layers"] = x
        return x, found, cache


class MLP(nnx.Module):
    """``down(activation(up(x)))``, or gated: ``down(activation(gate(x)) · up(x))``.

    Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        bias = config.mlp_biases
        self.gate = Projection(config.width, config.mlp_width, bias=bias, rngs=rngs) if config.gated else None
        self.up = Projection(config.width, config.mlp_width, bias=bias, rngs=rngs)
        self.down = Projection(config.mlp_width, config.width, bias=bias, rngs=rngs)
        self.activation = activation(config.activation)

    def __call__(self, x):
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        gates, hidden = project(x, self.gate, self.up)
        return self.down(self.activation(gates) * hidden)
