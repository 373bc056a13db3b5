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
    """One float32 vector an example: the hidden state, or its mean over the real tokens where there is one a token."""
    hidden = outputs.hidden.astype(jnp.float32)
    if hidden.ndim == 2:
        return hidden
    real = real_tokens(batch)
    return jnp.mean(hidden, axis=1) if real is None else masked_mean(hidden, real)


def real_tokens(batch: Mapping[str, Any]) -> Array | None:
    """Where tokens are real: ``attention_mask``, else the ``segment_ids`` that are not 0; None where all are."""
    if batch.get("attention_mask") is not None:
        return batch["attention_mask"]
    return batch["segment_ids"] > 0 if "segment_ids" in batch else None


def masked_mean(hidden: Float[Array, "batch time width"], real: Array) -> Float[Array, "batch width"]:
    """Mean over the positions where `real` is 1, in float32."""
    weights = real.astype(jnp.float32)[..., None]
    total = jnp.sum(hidden.astype(jnp.float32) * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)
