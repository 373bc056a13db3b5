"""What a model's forward pass gives: hidden states and an unembedding, logits only when asked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.weights import matmul


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A forward pass.

    With a large vocabulary the logits of a batch are larger than the model, so a model returns what they
    are made of. Token losses (`ft_jax.core.losses`) make them chunk by chunk; `logits` makes them whole.

    Attributes:
      hidden: ``[batch, width]`` (one vector an example) or ``[batch, time, width]``: what the head reads.
      unembedding: the head's weight ``[width, classes]``, an array or an operator; None without a head.
      bias: ``[classes]`` or None.
      states: further results by name, such as ``"layers/3"`` hidden states or ``"attention/3"`` maps.
      softcap: logits become ``softcap · tanh(logits / softcap)`` (Gemma 2); None for none.
    """

    hidden: Float[Array, "batch ... width"]
    unembedding: Any = None
    bias: Float[Array, " classes"] | None = None
    states: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    softcap: float | None = None

    @property
    def head(self) -> tuple[Any, Array | None]:
        """``(unembedding, bias)``, what the token losses take."""
        return self.unembedding, self.bias

    @property
    def logits(self) -> Float[Array, "batch ... classes"]:
        """All logits, float32."""
        return logits_of(self.hidden, self.head, self.softcap)


jax.tree_util.register_dataclass(
    Outputs, data_fields=["hidden", "unembedding", "bias", "states"], meta_fields=["softcap"]
)


def logits_of(hidden, head, softcap: float | None = None) -> Float[Array, "... classes"]:
    """Logits of some positions, float32 whatever the compute type."""
    logits = matmul(head[0], hidden, head[1]).astype(jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def pooled(outputs: Outputs, batch: Mapping[str, Any]) -> Float[Array, "batch width"]:
    """One float32 vector an example: the hidden state, or its mean over the real tokens where there is one a token.

    Real are the tokens of ``attention_mask``, else those whose ``segment_ids`` are not 0, else all.
    """
    hidden = outputs.hidden.astype(jnp.float32)
    if hidden.ndim == 2:
        return hidden
    mask = batch.get("attention_mask")
    if mask is None and "segment_ids" in batch:
        mask = batch["segment_ids"] > 0
    if mask is None:
        return jnp.mean(hidden, axis=1)
    mask = mask.astype(jnp.float32)[..., None]
    return jnp.sum(hidden * mask, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
