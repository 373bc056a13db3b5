"""Mixtures of experts: a router, grouped matrix products, and the loss that keeps the experts evenly loaded."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ft_jax.core.weights import materialize
from ft_jax.models.networks.parts.grouped import grouped
from ft_jax.models.networks.parts.layers import Projection, activation, value


class ExpertMLP(nnx.Module):
    """``Σ weight[e] · down[e](activation(gate[e](x)) · up[e](x))`` over the experts a router picks for each token.

    Shazeer et al. 2017, "Outrageously Large Neural Networks", arXiv:1701.06538, with the softmax before the choice
    as in Mixtral (Jiang et al. 2024, arXiv:2401.04088). Every token reaches its experts: there is no capacity.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        self.config = config
        self.router = Projection(config.width, config.experts, bias=False, rngs=rngs)
        self.experts = Experts(config, rngs)

    def __call__(self, x: Float[Array, "batch time width"]):
        """The mixture, and the router's logits ``[batch, time, experts]``."""
        logits = self.router(x).astype(jnp.float32)
        weights, chosen = route(logits, self.config.experts_per_token, self.config.normalised_router)
        tokens = x.reshape(-1, x.shape[-1])
        count = self.config.experts_per_token
        mixed = self.experts(tokens, chosen.reshape(-1, count), weights.reshape(-1, count))
        return mixed.reshape(x.shape), logits


class Experts(nnx.Module):
    """The experts' gated MLPs, their kernels ``[experts, inputs, outputs]``."""

    def __init__(self, config, rngs: nnx.Rngs):
        self.gate, self.up = (Kernels(config.experts, config.width, config.mlp_width, rngs) for _ in range(2))
        self.down = Kernels(config.experts, config.mlp_width, config.width, rngs)
        self.activation = activation(config.activation)

    def __call__(self, tokens, chosen, weights):
        """``tokens [tokens, width]`` through the experts ``chosen [tokens, count]`` of each, mixed by ``weights``.

        Tokens are sorted by expert, so that each projection is one product over groups of rows.
        """
        count = chosen.shape[1]
        experts = chosen.reshape(-1)
        order = jnp.argsort(experts)
        sizes = jnp.bincount(experts, length=self.gate.count)
        rows = tokens[order // count]
        hidden = self.activation(self.gate(rows, sizes)) * self.up(rows, sizes)
        given = self.down(hidden, sizes).astype(jnp.float32) * weights.reshape(-1)[order][:, None]
        mixed = jnp.zeros(tokens.shape, jnp.float32).at[order // count].add(given)
        return mixed.astype(tokens.dtype)


class Kernels(nnx.Module):
    """One matrix an expert, drawn from N(0, 1 / inputs)."""

    def __init__(self, count: int, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.count = count
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (count, inputs, outputs)) * inputs**-0.5)

    def __call__(self, rows: Float[Array, "rows inputs"], sizes: Int[Array, " experts"]):
        """Rows sorted by expert, of which expert ``e`` has ``sizes[e]``, each through its expert's matrix."""
        return grouped(rows, materialize(value(self.kernel)).astype(rows.dtype), sizes)


def route(
    logits: Float[Array, "... experts"], count: int, normalised: bool
) -> tuple[Float[Array, "... count"], Int[Array, "... count"]]:
    """Weights and numbers of the `count` likeliest experts of each token.

    Args:
      logits: of the router, float32.
      count: experts a token.
      normalised: whether the weights are made to sum to one.

    Example:
      >>> route(jnp.log(jnp.array([0.1, 0.6, 0.3])), 2, False)[1].tolist()
      [1, 2]
    """
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)
    return weights / weights.sum(axis=-1, keepdims=True) if normalised else weights, chosen


def load_balance(states: Mapping[str, Array], count: int, real: Array | None = None) -> Float[Array, ""]:
    """``experts · Σ_e f[e] · p[e]``: least, at `count`, where experts are used evenly.

    Fedus et al. 2021, "Switch Transformers", arXiv:2101.03961, equations 4 to 6, with Mixtral's `count` experts a
    token: ``f[e]`` is the number of a token's choices that fall on expert ``e`` and ``p[e]`` its probability, each
    the mean over the tokens of all layers.

    Args:
      states: of a mixture's `Outputs`, the router's logits at ``"router/<layer>"``, ``[batch, time, experts]``.
      count: experts a token, the configuration's ``experts_per_token``.
      real: ``[batch, time]``, 1 for the tokens that count; None for all.

    Raises:
      ValueError: where there are no router logits.

    Example:
      >>> float(load_balance({"router/0": jnp.zeros((1, 4, 8))}, 2))
      2.0
    """
    routers = [logits for name, logits in states.items() if name.startswith("router/")]
    if not routers:
        raise ValueError("states have no 'router/0'; a load-balance loss needs the outputs of a mixture of experts")
    logits = jnp.stack(routers).astype(jnp.float32)
    probabilities = jax.nn.softmax(logits, axis=-1)
    _, chosen = jax.lax.top_k(probabilities, count)
    picked = jax.nn.one_hot(chosen, logits.shape[-1]).sum(axis=-2)
    weights = jnp.ones(logits.shape[1:-1]) if real is None else real.astype(jnp.float32)
    total = weights.sum() * len(routers)
    fractions, means = (jnp.einsum("lbte,bt->e", x, weights) / total for x in (picked, probabilities))
    return logits.shape[-1] * jnp.sum(fractions * means)
