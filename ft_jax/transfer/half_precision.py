"""Full fine-tuning of parameters in half precision, whose own steps are too small for them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import digest

HALVES = (jnp.bfloat16, jnp.float16)


class MasterState(NamedTuple):
    """What learns in float32, of half-precision leaves alone, and the optimizer's own state over that."""

    master: Any
    inner: Any


def in_half(tree: Any) -> bool:
    """Whether a tree has a leaf of half precision."""
    return any(leaf.dtype in HALVES for leaf in jax.tree.leaves(tree))


def _wide(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype in HALVES else leaf, tree)


@register(
    "transfer",
    paper="Micikevicius et al. 2018, arXiv:1710.03740, section 3.1",
    example=lambda problem: master_copies(),
    neutral="Parameters in float32 train as without it; in half precision it is what makes small steps count.",
)
def master_copies(*, name: str = "transfer.master_copies") -> Method:
    """Keeps a float32 copy of every half-precision parameter that learns, which the optimizer moves.

    A bfloat16 number has 8 bits of precision: an update of less than 1/512 of a parameter is rounded away, and with it
    most of fine-tuning's. Here gradients are taken at the half-precision parameters, the optimizer (its moments too)
    works in float32 on the copy, and the parameters are the copy rounded: ``params = round(master)``. Costs 4 bytes a
    parameter, and 4 more for moments that would have been halves. Float32 parameters have no copy.

    It has to stand outside of all methods that change updates, first in a composition.

    Args:
      name: the method's name.

    Example:
      >>> import optax
      >>> from ft_jax.core import compose, make_step
      >>> from ft_jax.core.outputs import Outputs
      >>> def loss(params, batch, context):
      ...     return {"task": jnp.sum(params["model"]["w"].astype(jnp.float32))}, Outputs(hidden=batch["x"])
      >>> batch = {"x": jnp.zeros((1, 1))}
      >>> for method in ((), (master_copies(),)):
      ...     program = make_step(loss, optax.sgd(1e-3), compose(*method))
      ...     state = program.init({"w": jnp.ones(1, jnp.bfloat16)}, jax.random.key(0))
      ...     for _ in range(8):
      ...         state, _ = program.step(state, batch)
      ...     print(float(state.params["model"]["w"][0]))
      1.0
      0.9921875
    """

    def update(inner):
        def init(params):
            wide = _wide(params)
            master = jax.tree.map(lambda leaf, own: own if leaf.dtype in HALVES else None, params, wide)
            return MasterState(master, inner.init(wide))

        def step(gradients, state, params=None, *, event):
            copies = jax.tree.map(lambda leaf, own: leaf if own is None else own, params, state.master, is_leaf=_none)
            updates, inner_state = inner.update(_wide(gradients), state.inner, copies, event=event)
            moved = jax.tree.map(lambda own, by: own + by.astype(own.dtype), copies, updates)
            master = jax.tree.map(lambda leaf, own: own if leaf.dtype in HALVES else None, params, moved)
            rounded = jax.tree.map(
                lambda leaf, own, by: _towards(leaf, own.astype(leaf.dtype)) if leaf.dtype in HALVES else by,
                params, moved, updates,
            )  # fmt: skip
            return rounded, MasterState(master, inner_state)

        return optax.GradientTransformationExtraArgs(init, step)

    return Method(name=name, update=update)


def _none(leaf) -> bool:
    return leaf is None


def _towards(old, new):
    """The float32 update that makes `old` into `new`."""
    return new.astype(jnp.float32) - old.astype(jnp.float32)


@register(
    "transfer",
    paper="Zamirai et al. 2020, arXiv:2010.06192, section 4",
    example=lambda problem: stochastic_rounding(),
    neutral="Parameters in float32 train as without it; in half precision it is what makes small steps count.",
)
def stochastic_rounding(*, name: str = "transfer.stochastic_rounding") -> Method:
    """Rounds what the optimizer makes of half-precision parameters up or down by chance, right in the mean.

    A value between two neighbours ``low < x < high`` of the half-precision numbers becomes ``high`` with probability
    ``(x - low) / (high - low)``, so ``E[params] = params + update`` however small the update is. The optimizer works in
    float32, its moments too; there is no copy of the parameters, which saves 4 bytes a parameter beside
    `master_copies` and costs noise. Float32 parameters are left alone.

    It has to stand outside of all methods that change updates, first in a composition.

    Args:
      name: the method's name.

    Example:
      >>> stochastic_rounding().name
      'transfer.stochastic_rounding'
    """

    def update(inner):
        def step(gradients, state, params=None, *, event):
            wide = _wide(params)
            updates, state = inner.update(_wide(gradients), state, wide, event=event)
            key = jax.random.fold_in(jax.random.key(digest(name)), event.step)
            leaves, outline = jax.tree.flatten(params)
            moved = jax.tree.leaves(jax.tree.map(lambda own, by: own + by.astype(own.dtype), wide, updates))
            rounded = [
                _towards(leaf, rounded_by_chance(to, leaf.dtype, jax.random.fold_in(key, place)))
                if leaf.dtype in HALVES
                else by
                for place, (leaf, to, by) in enumerate(zip(leaves, moved, jax.tree.leaves(updates), strict=True))
            ]
            return outline.unflatten(rounded), state

        return optax.GradientTransformationExtraArgs(lambda params: inner.init(_wide(params)), step)

    return Method(name=name, update=update)


def rounded_by_chance(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Float32 numbers in a half-precision type, each one of its two neighbours there, right in the mean.

    Example:
      >>> x = jnp.full(20_000, 1.0 + 2.0**-9)
      >>> made = rounded_by_chance(x, jnp.bfloat16, jax.random.key(0)).astype(jnp.float32)
      >>> sorted(set(made.tolist())), abs(float(made.mean() - x.mean())) < 1e-4
      ([1.0, 1.0078125], True)
    """
    near = x.astype(dtype)
    rest = x - near.astype(jnp.float32)
    other = jnp.nextafter(near, jnp.where(rest > 0, jnp.inf, -jnp.inf).astype(dtype))
    gap = jnp.abs(other.astype(jnp.float32) - near.astype(jnp.float32))
    over = jax.random.uniform(key, x.shape) < jnp.abs(rest) / gap
    return jnp.where(over & (rest != 0) & jnp.isfinite(other), other, near)
