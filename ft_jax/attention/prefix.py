"""Learned keys and values before those of the tokens, in every layer."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.gates import places
from ft_jax.core.adapters import owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.grafts import Graft, graft, graft_each, module_at, stacked
from ft_jax.core.method import Method
from ft_jax.core.weights import matmul, shape
from ft_jax.core.weights.operator import operator


@operator("always")
class Prefix(Graft):
    """Keys and values that every token sees, beside the tokens' own; they are not rotated.

    Attributes:
      keys, values: one row a virtual token, the heads side by side.
      always: whether they stay in sight of a sliding window.
    """

    keys: Float[Array, "count features"]
    values: Float[Array, "count features"]
    always: bool = False

    def sources(self, attention, keys, values):
        return tuple(_for_batch(own, like) for own, like in ((self.keys, keys), (self.values, values)))


def _for_batch(rows, like):
    rows = rows.astype(like.dtype).reshape(1, rows.shape[0], *like.shape[2:])
    return jnp.broadcast_to(rows, (like.shape[0], *rows.shape[1:]))


@operator("count")
class Shift(Graft):
    """Counts the tokens' positions from `count`, behind a prefix."""

    count: int

    def positions(self, positions):
        return positions + self.count


@register(
    "attention",
    paper="Li and Liang 2021, arXiv:2101.00190, section 4",
    example=lambda problem: prefix_tuning(length=2, projection=4, also=("*/head/*",)),
    neutral="it replaces what learns by its prefix, which every token attends to from the first step",
    pretrained=False,
)
def prefix_tuning(
    length: int = 20,
    projection: int | None = None,
    also: tuple[str, ...] = (),
    deviation: float = 1.0,
    *,
    always: bool = False,
    name: str = "attention.prefix_tuning",
) -> Method:
    """Learns keys and values of virtual tokens in every layer, by themselves or through a small network.

    Every query of a layer attends to ``[prefix keys; keys]`` and mixes ``[prefix values; values]``; the tokens'
    positions count from `length`. With a `projection` the prefixes of all layers are
    ``tanh(embedding @ hidden + bias) @ output + bias`` (the paper's reparametrisation; peft's
    ``prefix_projection``), which learns more steadily and is gone once trained: the model keeps the prefixes.

    Args:
      length: virtual tokens.
      projection: width of the network's hidden layer; None learns the prefixes themselves.
      also: patterns of leaves that learn in full besides, such as ``("*/head/*",)``; nothing else does.
      deviation: standard deviation of what is drawn at the start, peft's 1 by default.
      always: whether the prefix stays in sight of layers with a sliding window; by default it slides out of it as if
        it stood before the text, as in peft, whose files know no other.
      name: the method's name.

    Raises:
      ValueError: a length or width below 1; at init, a model without attention.

    Example:
      >>> from ft_jax.core.params import count
      >>> from ft_jax.core import make_step, supervised
      >>> from ft_jax.models import tiny_decoder
      >>> import optax
      >>> model = tiny_decoder(jax.random.key(0))
      >>> program = make_step(supervised(model.apply), optax.sgd(0.1), prefix_tuning(length=5))
      >>> count(program.init(model.params, jax.random.key(1)).params)  # 5 tokens, 2 layers, keys and values of 8
      160
    """
    for what, number in (("length", length), ("projection", projection)):
        if number is not None and number < 1:
            raise ValueError(f"{name} has {what} {number}; give it at least 1")

    def draw(module, key):
        keys, values = jax.random.split(key)
        features = widths(module)
        return Prefix(
            deviation * jax.random.normal(keys, (length, features[0])),
            deviation * jax.random.normal(values, (length, features[1])),
            always,
        )

    def surgery(params, key):
        require(params, also, name)
        model = params["model"]
        chosen = places(params, name)
        if projection is None:
            return {**params, "model": _shifted(graft_each(model, chosen, draw, key, name), length, name)}
        sizes = [size for path in chosen for size in _sizes(model, path)]
        network = _network(key, length, min(sizes), projection, sum(sizes), deviation)
        return {**params, "model": _shifted(model, length, name), name: network}

    def view(params, context):
        model, network = params["model"], params[name]
        hidden = jnp.tanh(matmul(network["hidden"]["kernel"], network["embedding"], network["hidden"]["bias"]))
        rows = matmul(network["output"]["kernel"], hidden, network["output"]["bias"])
        chosen = places(params, name)
        sizes = [size for path in chosen for size in _sizes(model, path)]
        pieces = iter(jnp.split(rows, list(itertools.accumulate(sizes))[:-1], axis=1))
        for path in chosen:
            model = graft(model, path, name, _next_prefix(pieces, stacked(path, module_at(model, path)), always))
        return {**params, "model": model}

    return Method(
        name=name,
        surgery=surgery,
        trainable=owned(name, ("keys", "values"), also),
        view=None if projection is None else view,
    )


@register(
    "attention",
    paper="Liu et al. 2021, arXiv:2110.07602, section 3.2",
    example=lambda problem: p_tuning_v2(length=2, also=("*/head/*",)),
    neutral="it replaces what learns by its prompts, which every token attends to from the first step",
    pretrained=False,
)
def p_tuning_v2(
    length: int = 20,
    also: tuple[str, ...] = ("*/head/*",),
    deviation: float = 1.0,
    *,
    always: bool = False,
    name: str = "attention.p_tuning_v2",
) -> Method:
    """Learns deep prompts: keys and values of virtual tokens in every layer, with the task's head beside them.

    It is `prefix_tuning` without the reparametrising network, and with a linear head in place of a verbaliser,
    which the authors found to do as well as full fine-tuning at any size of model.

    Args:
      length: virtual tokens; short for easy classification, about 100 for sequence labelling.
      also: patterns of leaves that learn in full besides.
      deviation: standard deviation of the start.
      always: as in `prefix_tuning`.
      name: the method's name.

    Raises:
      ValueError: as `prefix_tuning`.

    Example:
      >>> p_tuning_v2(length=8).name
      'attention.p_tuning_v2'
    """
    return prefix_tuning(length, None, also, deviation, always=always, name=name)


def widths(module: Mapping[str, Any]) -> tuple[int, int]:
    """How many features the keys and the values of an attention module have."""
    return shape(module["key"]["kernel"])[1], shape(module["value"]["kernel"])[1]


def _shifted(model, length: int, name: str):
    return graft(model, "embeddings", name, Shift(length)) if "embeddings" in model else model


def _sizes(model, path) -> list[int]:
    """The widths of keys and values in the order of peft's rows: layer by layer, keys before values."""
    module = module_at(model, path)
    layers = stacked(path, module)
    if layers is None:
        return list(widths(module))
    return list(widths(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), module))) * layers


def _next_prefix(pieces, layers: int | None, always: bool) -> Prefix:
    if layers is None:
        return Prefix(next(pieces), next(pieces), always)
    each = [Prefix(next(pieces), next(pieces), always) for _ in range(layers)]
    return jax.tree.map(lambda *several: jnp.stack(several), *each)


def linear(key: jax.Array, inputs: int, outputs: int) -> dict[str, Array]:
    """A projection drawn as torch's ``Linear``: kernel and bias from ``U(-1/√inputs, 1/√inputs)``."""
    kernel, bias = jax.random.split(key)
    bound = inputs**-0.5
    return {
        "kernel": jax.random.uniform(kernel, (inputs, outputs), jnp.float32, -bound, bound),
        "bias": jax.random.uniform(bias, (outputs,), jnp.float32, -bound, bound),
    }


def _network(key, length: int, width: int, hidden: int, outputs: int, deviation: float):
    keys = jax.random.split(key, 3)
    return {
        "embedding": deviation * jax.random.normal(keys[0], (length, width)),
        "hidden": linear(keys[1], width, hidden),
        "output": linear(keys[2], hidden, outputs),
    }
