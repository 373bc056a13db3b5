"""What a weight can do, and the functions models call on it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.mesh import rows_whole
from ft_jax.core.weights.product import product


class Weight:
    """A matrix ``[inputs, outputs]`` that need not be stored as one.

    Subclasses are frozen dataclasses registered as pytrees (use the `operator` decorator) and define
    `matmul`, `materialize` and `shape`; `fold_bias` where the operator acts on the whole projection.

    ``mergeable`` is False where no matrix has the operator's effect in every case (a nonlinear bottleneck); there
    `materialize` raises ValueError.
    """

    mergeable = True

    def matmul(self, x: Array, bias: Array | None = None) -> Array:
        """``x [..., inputs]`` to ``[..., outputs]``; the bias is added where the unadapted layer adds it."""
        raise NotImplementedError

    @classmethod
    def matmuls(cls, weights: Sequence["Weight"], x: Array, biases: Sequence[Array | None]) -> Sequence[Array]:
        """`matmul` of several weights of this class over one `x`, where they can share a pass over it."""
        return [weight.matmul(x, bias) for weight, bias in zip(weights, biases, strict=True)]

    def materialize(self) -> Array:
        """The dense array ``[inputs, outputs]`` with the same effect."""
        raise NotImplementedError

    def fold_bias(self, bias: Array) -> Array:
        """The bias that goes with `materialize`."""
        return fold_bias(self.base, bias) if hasattr(self, "base") else bias

    @property
    def shape(self) -> tuple[int, ...]:
        """``(inputs, outputs)``, without computing anything."""
        raise NotImplementedError


def operator(*static: str):
    """Class decorator: a frozen dataclass, registered as a pytree with `static` as its metadata.

    An operator with a static field ``owner``, the name of the method that put it there, keeps its own leaves
    under that name: the paths of a low-rank update on ``up/kernel`` are ``up/kernel/transfer.lora/a``, ``…/b``
    and ``up/kernel/base``. So filters tell the operators of several methods on one weight apart.
    """

    def decorate(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        fields = [field.name for field in dataclasses.fields(cls)]
        data = [name for name in fields if name not in static]

        def key(weight, name):
            owner = getattr(weight, "owner", "") if "owner" in static and name != "base" else ""
            return jax.tree_util.GetAttrKey(f"{owner}/{name}" if owner else name)

        def flatten(weight):
            return [getattr(weight, name) for name in data], tuple(getattr(weight, name) for name in static)

        def flatten_with_keys(weight):
            children, fixed = flatten(weight)
            return [(key(weight, name), child) for name, child in zip(data, children, strict=True)], fixed

        def unflatten(fixed, children):
            return cls(**dict(zip(data, children, strict=True)), **dict(zip(static, fixed, strict=True)))

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
        return cls

    return decorate


def is_weight(value: Any) -> bool:
    """Whether `value` is an operator (as ``is_leaf`` of a tree map, it stops at whole weights)."""
    return isinstance(value, Weight)


def matmul(
    weight, x: Float[Array, "... inputs"], bias: Float[Array, " outputs"] | None = None
) -> Float[Array, "... outputs"]:
    """The projection ``x @ weight + bias``.

    Args:
      weight: an array ``[inputs, outputs]`` or a `Weight`.
      x: activations ``[..., inputs]``.
      bias: ``[outputs]`` or None. It is an argument and not the caller's addition because operators such
        as IA3 scale the layer's output, bias included.

    Example:
      >>> import jax.numpy as jnp
      >>> matmul(jnp.eye(2), jnp.ones((3, 2))).shape
      (3, 2)
    """
    if isinstance(weight, Weight):
        return weight.matmul(x, bias)
    y = product(x, weight.astype(x.dtype))
    return y if bias is None else y + bias.astype(y.dtype)


def matmuls(weights: Sequence, x: Float[Array, "... inputs"], biases: Sequence[Array | None]) -> list[Array]:
    """`matmul` of each weight over one input, as query, key and value are: what they do to `x` alike is done once.

    Args:
      weights: arrays and `Weight` instances ``[inputs, outputs]``, in any mixture.
      x: activations ``[..., inputs]``.
      biases: ``[outputs]`` or None, one for each weight.

    Example:
      >>> import jax.numpy as jnp
      >>> [y.shape for y in matmuls([jnp.eye(2), jnp.ones((2, 5))], jnp.ones((3, 2)), [None, None])]
      [(3, 2), (3, 5)]
    """
    results: list[Any] = [None] * len(weights)
    for kind in {type(weight): None for weight in weights}:
        alike = [index for index, weight in enumerate(weights) if type(weight) is kind]
        own, theirs = [weights[index] for index in alike], [biases[index] for index in alike]
        if issubclass(kind, Weight):
            products = kind.matmuls(own, x, theirs)
        else:
            products = [matmul(weight, x, bias) for weight, bias in zip(own, theirs, strict=True)]
        for index, y in zip(alike, products, strict=True):
            results[index] = y
    return results


def materialize(weight) -> Array:
    """The dense array a weight stands for."""
    return weight.materialize() if isinstance(weight, Weight) else weight


def fold_bias(weight, bias: Array) -> Array:
    """The bias to use beside ``materialize(weight)``."""
    return weight.fold_bias(bias) if isinstance(weight, Weight) else bias


def shape(weight) -> tuple[int, ...]:
    """``(inputs, outputs)`` of any weight."""
    return tuple(weight.shape)


def embed(weight, ids: Int[Array, "..."]) -> Float[Array, "... width"]:
    """Rows of a table ``[vocabulary, width]``; operators are materialised first."""
    return jnp.take(rows_whole(materialize(weight)), ids, axis=0)


def cast(tree, dtype):
    """`tree` with its floating-point leaves in `dtype`; integer codes stay."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def merge(params):
    """`params` with every operator replaced by the dense weight it stands for, biases folded.

    The merged tree gives the outputs of the unmerged one and holds plain arrays only, so it can be saved
    in the base model's own format.
    """
    if isinstance(params, Weight):
        return params.materialize()
    if not isinstance(params, dict):
        return params
    merged = {name: merge(child) for name, child in params.items()}
    kernel, bias = params.get("kernel"), params.get("bias")
    if isinstance(kernel, Weight) and bias is not None:
        merged["bias"] = kernel.fold_bias(bias)
    return merged


@operator()
class Transposed(Weight):
    """``base`` transposed: a tied unembedding is ``Transposed(embedding table)``."""

    base: Any

    def matmul(self, x, bias=None):
        y = jnp.einsum("...i,oi->...o", x, materialize(self.base).astype(x.dtype))
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        return materialize(self.base).T

    def fold_bias(self, bias):
        return bias

    @property
    def shape(self):
        return tuple(reversed(shape(self.base)))
