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


TOLD = "told/"
"""What a loss leaves in the states under this, a number an example ``[batch]``: its mean is in the step's metrics."""


def told_by(outputs: Outputs) -> dict[str, Array]:
    """What losses tell of every example, by the name that the metric has; it is no term and has no gradient.

    Example:
      >>> told_by(Outputs(jnp.zeros((2, 1)), states={"told/rl.dpo/margin": jnp.ones(2), "other": 0})).keys()
      dict_keys(['rl.dpo/margin'])
    """
    told = {name: rows for name, rows in outputs.states.items() if name.startswith(TOLD)}
    return {name.removeprefix(TOLD): jax.lax.stop_gradient(rows) for name, rows in told.items()}


def means(told: Mapping[str, Array], axis: str | None = None) -> dict[str, Array]:
    """The mean of each over the examples of all devices; those that are not finite don't count.

    Example:
      >>> means({"a": jnp.array([1.0, 3.0, jnp.nan])})["a"].item()
      2.0
    """

    def mean(rows):
        counts = jnp.isfinite(rows)
        total, count = jnp.sum(jnp.where(counts, rows, 0.0)), jnp.sum(counts)
        if axis is not None:
            total, count = jax.lax.psum((total, count), axis)
        return (total / jnp.maximum(count, 1)).astype(jnp.float32)

    return {name: mean(rows) for name, rows in told.items()}


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
