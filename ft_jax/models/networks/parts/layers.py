"""The small modules every network here is made of: projections, norms, dropout."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ft_jax.core.grafts import Graft, Holder
from ft_jax.core.weights import matmul, matmuls
from ft_jax.core.weights.product import saves_products
from ft_jax.outside import printable

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str):
    """The activation function called `name`.

    Raises:
      ValueError: on an unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {printable(name)} is unknown; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def value(parameter):
    """The array or weight operator an `nnx.Param` holds; None for a parameter that is not there."""
    return None if parameter is None else parameter.get_value()


def table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """A lookup table ``[rows, width]`` drawn from N(0, 1 / width), so that tied logits are of order one."""
    return nnx.Param(jax.random.normal(rngs.params(), (rows, width)) * width**-0.5)


class Projection(nnx.Module):
    """``x @ kernel + bias``, where the kernel may be any weight operator; drawn from N(0, gain / inputs)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs, gain: float = 1.0):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) * (gain / inputs) ** 0.5)
        self.bias = nnx.Param(jnp.zeros((outputs,))) if bias else None

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        return matmul(value(self.kernel), x, value(self.bias))


def project(x: Float[Array, "... inputs"], *projections: Projection) -> list[Array]:
    """What several projections make of one input, in their order; what they do to it alike is done once."""
    kernels, biases = ([value(getattr(one, part)) for one in projections] for part in ("kernel", "bias"))
    return matmuls(kernels, x, biases)


class LayerNorm(nnx.Module):
    """Ba et al. 2016, "Layer Normalization", arXiv:1607.06450; computed in float32."""

    def __init__(self, width: int, epsilon: float, *, bias: bool = True):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,))) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        return layer_norm(x, value(self.scale), value(self.bias), self.epsilon)


def layer_norm(x: Float[Array, "... width"], scale, bias, epsilon: float) -> Float[Array, "... width"]:
    """The function of `LayerNorm`; `bias` may be None."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    scaled = normal * scale
    return (scaled if bias is None else scaled + bias).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467; computed in float32."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (normal * value(self.scale)).astype(x.dtype)


def unit(vectors: Float[Array, "... width"]) -> Float[Array, "... width"]:
    """`vectors` scaled to length 1, in float32.

    Example:
      >>> unit(jnp.array([0.0, 4.0])).tolist()
      [0.0, 1.0]
    """
    vectors = vectors.astype(jnp.float32)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


DROPOUT_LEVELS = 2**16
"""Rates are rounded to multiples of one over this, so that a 32-bit random word decides two values."""


def dropout(x: Array, rate: float, key: jax.Array | None) -> Array:
    """`x` with each value zeroed with probability `rate` and the others scaled by ``1 / (1 - rate)``.

    Without a key, or at rate 0, `x` itself. The rate is rounded to a multiple of 1/65,536, in the scale too, so the
    mean stays exact: drawing random bits is most of dropout's cost, and 16 for a value are half of 32.

    Example:
      >>> import jax.numpy as jnp
      >>> dropout(jnp.ones(2), 0.5, None).tolist()
      [1.0, 1.0]
    """
    if key is None or rate == 0.0:
        return x
    kept = round((1.0 - rate) * DROPOUT_LEVELS)
    if kept == 0:
        return jnp.zeros_like(x)
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
    draws = jnp.concatenate([words & (DROPOUT_LEVELS - 1), words >> 16], axis=-1)[..., : x.shape[-1]]
    return jnp.where(draws < kept, x / (kept / DROPOUT_LEVELS), jnp.zeros((), x.dtype))


def subkey(key: jax.Array | None, index: int) -> jax.Array | None:
    """The `index`-th key derived from `key`; None stays None (a deterministic pass)."""
    return None if key is None else jax.random.fold_in(key, index)


def rematerialise(function, policy: str):
    """`function` with its activations kept (``"none"``), its matmul results kept (``"dots"``) or nothing (``"full"``).

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.

    Raises:
      ValueError: on an unknown policy.
    """
    if policy == "none":
        return function
    if policy == "dots":
        return jax.checkpoint(function, policy=saves_products)
    if policy == "full":
        return jax.checkpoint(function)
    raise ValueError(f"remat policy {printable(policy)} is unknown; use 'none', 'dots' or 'full'")


def graft_onto(module: nnx.Module, path: str, grafts: tuple[Graft, ...]) -> None:
    """Gives the freshly merged `module` the grafts of its part at `path`, which `grafts_of` finds there."""
    for name in path.split("/") if path else ():
        module = module[name] if isinstance(module, nnx.Dict) else getattr(module, name)
    module.grafts = Holder(grafts)


def grafts_of(module: nnx.Module) -> tuple[Graft, ...]:
    """The methods' additions to a module, see `ft_jax.core.grafts`."""
    return tuple(getattr(module, "grafts", ()))


def stays_in_sight(embeddings: nnx.Module) -> bool:
    """Whether virtual tokens before the real ones stay in sight of layers with a window, see `Graft.always`."""
    return any(graft.always for graft in grafts_of(embeddings))


def with_virtual(embeddings: nnx.Module, embedded, positions, mask):
    """Virtual tokens of the embeddings' grafts before the real ones.

    Returns:
      How many there are, the token embeddings and positions with them, and a mask in which every token sees
      them.
    """
    count = 0
    for graft in grafts_of(embeddings):
        positions = graft.positions(positions)
        tokens = graft.prepend(embedded)
        if tokens is not None:
            added = tokens.shape[1]
            own = jnp.broadcast_to(jnp.arange(added, dtype=positions.dtype), (embedded.shape[0], added))
            positions = jnp.concatenate([own, positions + added], axis=1)
            embedded, count = jnp.concatenate([tokens, embedded], axis=1), count + added
    # At once: a mask that has grown is no longer marked causal, and would let a second prompt see ahead.
    mask = mask.grown(count, embedded.shape[1] - count, queries=True) if count else mask
    return count, embedded, positions, mask
