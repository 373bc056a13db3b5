"""Multi-head attention with grouped queries, one call for every backend."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ft_jax.core.mesh import traced_device
from ft_jax.models.networks.parts.cache import extend
from ft_jax.models.networks.parts.layers import Projection, RMSNorm, dropout, grafts_of, project
from ft_jax.models.networks.parts.masks import Mask, mask_of, positions_of
from ft_jax.models.networks.parts.rope import rotary_angles, rotate

__all__ = ["Mask", "SelfAttention", "attention", "mask_of", "positions_of", "rotary_angles", "rotate", "scores_of"]

HIDDEN = 0.7 * jnp.finfo(jnp.float32).min
"""The score of what is not seen."""


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

    Raises:
      ValueError: float16 on a device that has no products of it; jax says so only when it compiles, not to whom.
    """
    platform = traced_device().platform
    if queries.dtype == jnp.float16 and platform != "gpu":
        raise ValueError(
            f"the model computes in float16, whose products a {platform} does not have; take dtype='bfloat16' or "
            "'float32', or a GPU"
        )
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
    device = traced_device()
    if device.platform != "gpu" or queries.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    time, source, head_width = queries.shape[1], keys.shape[1], queries.shape[-1]
    capability = getattr(device, "compute_capability", None)
    if capability is None or float(capability) < 8.0:
        return False
    return head_width % 8 == 0 and head_width <= 128 and time % 2 == 0 and source % 2 == 0


def scores_of(
    queries, keys, mask: Mask, scale: float | None = None, softcap: float | None = None, bias=None
) -> Float[Array, "batch groups heads_of_group time source"]:
    """What `attention` takes the softmax of, float32; `HIDDEN` where the mask hides a key."""
    batch, time, heads, head_width = queries.shape
    source, groups = keys.shape[1], keys.shape[2]
    scale = head_width**-0.5 if scale is None else scale
    grouped = queries.reshape(batch, time, groups, heads // groups, head_width)
    scores = jnp.einsum("btghd,bsgd->bghts", grouped, keys, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:1], heads, *bias.shape[2:])).astype(jnp.float32)
        scores = scores + bias.reshape(bias.shape[0], groups, heads // groups, *bias.shape[2:])
    allowed = mask.explicit(time, source).allowed
    if allowed is not None:
        scores = jnp.where(allowed[:, :, None], scores, HIDDEN)
    return scores


def _written_out(queries, keys, values, mask, scale, softcap, bias, rate, key):
    (batch, time, heads, head_width), source = queries.shape, keys.shape[1]
    probabilities = jax.nn.softmax(scores_of(queries, keys, mask, scale, softcap, bias), axis=-1)
    kept = dropout(probabilities, rate, key).astype(values.dtype)
    mixed = jnp.einsum("bghts,bsgd->btghd", kept, values).reshape(batch, time, heads, head_width)
    return mixed, probabilities.reshape(batch, heads, time, source)


PROJECTED = ("query", "key", "value")
"""What a layer with ``"projections"`` in its ``collect`` gives, each ``[batch, time, heads, head_width]``."""


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
      scale: of the scores, by default ``1 / √head_width``.
      softcap: of the scores, or None (see `attention`).
      norm_epsilon: where not None, each head's queries and keys are normalised before they are turned.
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
        scale: float | None = None,
        softcap: float | None = None,
        norm_epsilon: float | None = None,
    ):
        self.heads, self.key_value_heads = heads, key_value_heads or heads
        self.head_width = head_width or width // heads
        self.rate, self.scale, self.softcap = rate, scale, softcap
        sources = self.key_value_heads * self.head_width
        self.query = Projection(width, heads * self.head_width, bias=biases, rngs=rngs)
        self.key = Projection(width, sources, bias=biases, rngs=rngs)
        self.value = Projection(width, sources, bias=biases, rngs=rngs)
        self.output = Projection(heads * self.head_width, width, bias=output_bias, rngs=rngs)
        self.query_norm, self.key_norm = (
            None if norm_epsilon is None else RMSNorm(self.head_width, norm_epsilon) for _ in range(2)
        )

    def __call__(self, x, mask: Mask, *, angles=None, key=None, collect=(), cache=None, index=None):
        """``x [batch, time, width]`` to the same shape.

        Args:
          x: the (normalised) residual stream.
          mask: over the keys; over all slots of the cache when there is one (see `ft_jax.models.networks.parts.cache`).
          angles: of `rotary_angles`, or None.
          key: for dropout, or None.
          collect: what is wanted of it: ``"attention"``, its maps, ``"scores"``, what they are the softmax of, and
            ``"projections"``, the queries, keys and values as they are projected.
          cache: keys and values ``[batch, held, key_value_heads, head_width]`` of earlier tokens, or None.
          index: the slot of the first token of `x`, a scalar or ``[batch]``.

        Returns:
          The output, what was wanted by name (``attention``, ``scores``, ``query``, ``key``, ``value``), the cache
          with the new keys and values or None.
        """
        queries, keys, values = map(self._split, project(x, self.query, self.key, self.value))
        found = dict(zip(PROJECTED, (queries, keys, values), strict=True)) if "projections" in collect else {}
        if self.query_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if angles is not None:
            queries, keys = rotate(queries, angles), rotate(keys, angles)
        for graft in grafts_of(self):
            values = graft.source_values(self, values, x)
        window = mask.window
        slots = keys.shape[1] if cache is None else mask.allowed.shape[-1]
        for graft in grafts_of(self):
            mask = graft.mask(mask, queries.shape[1], slots, 0 if index is None else index)
        if cache is not None:
            keys, values, mask, cache = extend(cache, keys, values, mask, index, slots)
        for graft in grafts_of(self):
            more = graft.sources(self, keys, values)
            if more is not None:
                count = more[0].shape[1]
                mask = mask.grown(count, keys.shape[1], length=queries.shape[1])
                if window is not None and not graft.always:
                    mask = mask.slid(count, window, 0 if index is None else index)
                keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(more, (keys, values), strict=True))
        if "scores" in collect:
            scores = scores_of(queries, keys, mask, self.scale, self.softcap)
            found["scores"] = scores.reshape(scores.shape[0], self.heads, *scores.shape[3:])
        attend = functools.partial(
            attention, scale=self.scale, softcap=self.softcap, rate=self.rate, key=key, maps="attention" in collect
        )
        for graft in grafts_of(self):
            attend = functools.partial(graft.attend, attend)
        mixed, probabilities = attend(queries, keys, values, mask)
        for graft in grafts_of(self):
            mixed = graft.mix(self, mixed, queries, x)
        if probabilities is not None:
            found["attention"] = probabilities
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), found, cache

    def _split(self, x):
        return x.reshape(*x.shape[:2], -1, self.head_width)
