"""Multi-head attention: masks, rotary positions, grouped queries, one call for every backend."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ft_jax.models.layers import Projection, dropout, grafts_of


@dataclasses.dataclass(frozen=True)
class Mask:
    """Who may look at whom.

    Attributes:
      allowed: ``[batch, 1, queries or 1, keys]``, True where a query may attend; None for everywhere.
      causal: whether, besides, a query sees only keys at its own index or before.
      window: ``(before, after)``: besides, a query sees only keys at most so far from its own index.
    """

    allowed: Bool[Array, "batch 1 queries keys"] | None = None
    causal: bool = False
    window: tuple[int, int] | None = None

    def explicit(self, queries: int, keys: int) -> "Mask":
        """The same mask as one array, or None, with no flags."""
        distance = jnp.arange(queries)[:, None] - jnp.arange(keys)[None, :]
        allowed = self.allowed
        for ruled in (
            distance >= 0 if self.causal else None,
            (distance <= self.window[0]) & (-distance <= self.window[1]) if self.window else None,
        ):
            if ruled is not None:
                allowed = ruled[None, None] if allowed is None else allowed & ruled
        return Mask(allowed)

    def grown(self, count: int, keys: int, *, queries: bool = False, length: int | None = None) -> "Mask":
        """The mask of as many keys with `count` more before them, which every query sees.

        Args:
          count: new keys.
          keys: how many there were.
          queries: whether there are as many new queries too, which see each other and, unless causal, all that
            any query sees.
          length: how many queries there are, by default as many as keys.
        """
        old = self.explicit(length or keys, keys).allowed
        if old is None:
            return self
        grown = jnp.pad(old, ((0, 0), (0, 0), (0, 0), (count, 0)), constant_values=True)
        if queries:
            seen = jnp.zeros_like(old[:, :, :1]) if self.causal else jnp.any(old, axis=2, keepdims=True)
            own = jnp.pad(seen, ((0, 0), (0, 0), (0, 0), (count, 0)), constant_values=True)
            own = jnp.broadcast_to(own, (*own.shape[:2], count, own.shape[3]))
            if self.causal:
                own = own & (jnp.arange(count)[:, None] >= jnp.arange(own.shape[3])[None, :])
            grown = jnp.concatenate(
                [own, jnp.broadcast_to(grown, (*grown.shape[:2], length or keys, grown.shape[3]))], axis=2
            )
        return Mask(grown)


def mask_of(batch, *, causal: bool) -> Mask:
    """The mask of a batch with ``attention_mask`` (1 = real token), ``segment_ids`` (0 = padding), both or none.

    Tokens of different segments don't see each other, so packed sequences are as if alone. A causal mask
    alone stays a flag, which fused kernels exploit.
    """
    padding, segments = batch.get("attention_mask"), batch.get("segment_ids")
    allowed = None
    if padding is not None:
        allowed = (padding > 0)[:, None, None, :]
    if segments is not None:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]
        allowed = same[:, None] if allowed is None else allowed & same[:, None]
    return Mask(allowed, causal)


def positions_of(batch) -> Int[Array, "batch time"]:
    """Each token's place in its own sequence, from 0.

    ``positions`` of the batch where given; else counted from the start of the segment (packing), or from the
    first real token (left padding).
    """
    if "positions" in batch:
        return batch["positions"]
    ids = batch["input_ids"]
    index = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    if "segment_ids" in batch:
        segments = batch["segment_ids"]
        starts = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
        return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    if "attention_mask" in batch:
        return jnp.maximum(jnp.cumsum(batch["attention_mask"] > 0, axis=1, dtype=jnp.int32) - 1, 0)
    return index


def rotary_angles(
    positions: Int[Array, "batch time"], head_width: int, theta: float, scaling
) -> tuple[Float[Array, "batch time 1 half"], Float[Array, "batch time 1 half"]]:
    """Cosine and sine of ``position · theta^(-2i / head_width)``, float32.

    Su et al. 2021, "RoFormer", arXiv:2104.09864, equation 15; `scaling` (`RopeScaling` or None) changes the
    frequencies as Llama 3.1 does.
    """
    frequencies = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
    if scaling is not None:
        frequencies = scaling.apply(frequencies)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "batch time heads head_width"], angles) -> Float[Array, "batch time heads head_width"]:
    """Pairs ``(x[i], x[i + half])`` turned by the angles, in float32."""
    cosine, sine = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def attention(
    queries: Float[Array, "batch time heads head_width"],
    keys: Float[Array, "batch source key_value_heads head_width"],
    values: Float[Array, "batch source key_value_heads head_width"],
    mask: Mask,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Float[Array, "batch heads time source"] | None = None,
    rate: float = 0.0,
    key: jax.Array | None = None,
    maps: bool = False,
) -> tuple[Float[Array, "batch time heads head_width"], Float[Array, "batch heads time source"] | None]:
    """``softmax(scale · queries · keysᵀ + bias) · values`` with the softmax in float32.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1; fewer key than query heads are shared in groups
    (Ainslie et al. 2023, arXiv:2305.13245). Runs as cuDNN's fused kernel on NVIDIA GPUs in half precision, XLA
    elsewhere; written out where the maps are wanted or dropped from (`rate`, with a `key`), or scores are capped.

    Args:
      queries, keys, values: rotated already.
      mask: who sees whom.
      scale: of the scores, by default ``1 / √head_width``.
      softcap: scores become ``softcap · tanh(scores / softcap)`` (Gemma 2) before the mask.
      bias: added to the scores (T5's relative positions); its leading axes may be 1.
      rate: dropout of the attention maps.
      key: for dropout; None for none.
      maps: whether the attention maps are wanted.

    Returns:
      The mixed values, and the attention maps when `maps` is asked for, else None.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    if maps or softcap is not None or (key is not None and rate > 0.0):
        mixed, probabilities = _written_out(queries, keys, values, mask, scale, softcap, bias, rate, key)
        return mixed, probabilities if maps else None
    fused = _cudnn_takes(queries, keys)
    if mask.window is not None:
        mask = mask.explicit(queries.shape[1], keys.shape[1])
    allowed = mask.allowed
    if fused and allowed is not None:
        allowed = jnp.broadcast_to(allowed, (allowed.shape[0], 1, queries.shape[1], keys.shape[1]))
    mixed = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        bias=None if bias is None else bias.astype(queries.dtype),
        mask=allowed,
        scale=scale,
        is_causal=mask.causal,
        implementation="cudnn" if fused else "xla",
    )
    return mixed, None


def _cudnn_takes(queries, keys) -> bool:
    if jax.default_backend() != "gpu" or queries.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    time, source, head_width = queries.shape[1], keys.shape[1], queries.shape[-1]
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is None or float(capability) < 8.0:
        return False
    return head_width % 8 == 0 and head_width <= 128 and time % 2 == 0 and source % 2 == 0


def _written_out(queries, keys, values, mask, scale, softcap, bias, rate, key):
    batch, time, heads, head_width = queries.shape
    source, groups = keys.shape[1], keys.shape[2]
    grouped = queries.reshape(batch, time, groups, heads // groups, head_width)
    scores = jnp.einsum("btghd,bsgd->bghts", grouped, keys, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:1], heads, *bias.shape[2:])).astype(jnp.float32)
        scores = scores + bias.reshape(bias.shape[0], groups, heads // groups, *bias.shape[2:])
    allowed = mask.explicit(time, source).allowed
    if allowed is not None:
        scores = jnp.where(allowed[:, :, None], scores, 0.7 * jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    kept = dropout(probabilities, rate, key).astype(values.dtype)
    mixed = jnp.einsum("bghts,bsgd->btghd", kept, values).reshape(batch, time, heads, head_width)
    return mixed, probabilities.reshape(batch, heads, time, source)


class SelfAttention(nnx.Module):
    """Projections to queries, keys and values, `attention`, and the projection back.

    Args:
      width: of the residual stream.
      heads: query heads.
      key_value_heads: heads of keys and values, dividing `heads`.
      head_width: of one head.
      biases: whether query, key and value have biases.
      output_bias: whether the output projection has one.
      rate: dropout of the attention maps in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        key_value_heads: int | None = None,
        head_width: int | None = None,
        biases: bool = True,
        output_bias: bool = True,
        rate: float = 0.0,
    ):
        self.heads, self.key_value_heads = heads, key_value_heads or heads
        self.head_width = head_width or width // heads
        self.rate = rate
        sources = self.key_value_heads * self.head_width
        self.query = Projection(width, heads * self.head_width, bias=biases, rngs=rngs)
        self.key = Projection(width, sources, bias=biases, rngs=rngs)
        self.value = Projection(width, sources, bias=biases, rngs=rngs)
        self.output = Projection(heads * self.head_width, width, bias=output_bias, rngs=rngs)

    def __call__(self, x, mask: Mask, *, angles=None, key=None, maps=False, cache=None, index=None):
        """``x [batch, time, width]`` to the same shape.

        Args:
          x: the (normalised) residual stream.
          mask: over the keys; over the whole cache when there is one.
          angles: of `rotary_angles`, or None.
          key: for dropout, or None.
          maps: whether the attention maps are wanted.
          cache: keys and values ``[batch, slots, key_value_heads, head_width]`` of earlier tokens, or None.
          index: the slot of the first token of `x` in the cache.

        Returns:
          The output, the maps or None, the cache with the new keys and values or None.
        """
        queries, keys, values = (self._split(projection(x)) for projection in (self.query, self.key, self.value))
        if angles is not None:
            queries, keys = rotate(queries, angles), rotate(keys, angles)
        if cache is not None:
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
                for old, new in zip(cache, (keys, values), strict=True)
            )
            cache = (keys, values)
        for graft in grafts_of(self):
            more = graft.sources(self, keys, values)
            if more is not None:
                mask = mask.grown(more[0].shape[1], keys.shape[1], length=queries.shape[1])
                keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(more, (keys, values), strict=True))
        mixed, probabilities = attention(queries, keys, values, mask, rate=self.rate, key=key, maps=maps)
        for graft in grafts_of(self):
            mixed = graft.mix(self, mixed, queries, x)
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), probabilities, cache

    def _split(self, x):
        return x.reshape(*x.shape[:2], -1, self.head_width)
