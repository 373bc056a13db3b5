"""Attention to fewer tokens: sliding windows and shifted groups."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.gates import places
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.grafts import Graft, graft_each
from ft_jax.core.method import Method
from ft_jax.core.weights.operator import operator
from ft_jax.models.networks.parts.masks import Mask

MOST = 2.0**24
"""A window wider than any sequence."""


@operator()
class Window(Graft):
    """A token sees only tokens less than `window` away from it."""

    window: Float[Array, ""]

    def mask(self, mask, queries, keys, first):
        here = jnp.reshape(jnp.asarray(first), (-1, 1, 1, 1)) + jnp.arange(queries)[:, None]
        near = jnp.abs(here - jnp.arange(keys)) < self.window
        mask = mask.explicit(queries, keys)
        return Mask(near if mask.allowed is None else mask.allowed & near)


@register(
    "attention",
    paper="Beltagy, Peters and Cohan 2020, arXiv:2004.05150, section 3.1",
    example=lambda problem: sliding_window(window=2),
    neutral=Neutral({"window": MOST}),
    pretrained=False,
)
def sliding_window(window: float, *, name: str = "attention.sliding_window") -> Method:
    """Lets a token attend only to the tokens less than `window` away from it, in every layer.

    Token ``t`` sees token ``s`` where ``|t - s| < window``, and in a causal model ``s <= t`` besides. A prefix
    of another method is seen by all; virtual tokens before the text count as its first tokens and pass out of
    sight (padding between them and the text counts too). The window is data: it can be narrowed or widened while
    training without compiling anything, and from the length of the sequence on it changes nothing.

    Args:
      window: tokens, its own included; ``hyper[name]["window"]``.
      name: the method's name.

    Raises:
      ValueError: a window below 1; at init, a model without attention.

    Example:
      >>> sliding_window(128).hyper
      {'window': 128}
    """
    if window < 1:
        raise ValueError(f"{name} has window {window}; give it at least 1, the token itself")

    def surgery(params, key):
        places(params, name)
        return params

    def view(params, context):
        now = context.hyper[name]["window"]
        return {**params, "model": _everywhere(params, Window(now), name)}

    return Method(name=name, hyper={"window": window}, surgery=surgery, view=view)


def _everywhere(params, graft: Graft, name: str):
    """The model with one graft on every attention."""
    return graft_each(params["model"], places(params, name), lambda *_: graft, jax.random.key(0), name)


@operator("group")
class ShiftedGroups(Graft):
    """Half of the heads attend within groups of `group` tokens, half within groups shifted by half a group."""

    group: int

    def attend(self, attend, queries, keys, values, mask):
        time, heads, groups = queries.shape[1], queries.shape[2], keys.shape[2]
        if heads < 2:
            raise ValueError("shifted groups split a layer's heads in two halves, and this model has one head a layer")
        extra = keys.shape[1] - time
        if groups == 1:
            keys, values, groups = jnp.repeat(keys, 2, axis=2), jnp.repeat(values, 2, axis=2), 2
        half = groups // 2
        cut = half * (heads // groups)
        sides = ((slice(None, cut), slice(None, half), 0), (slice(cut, None), slice(half, None), self.group // 2))
        halves = [
            _in_groups(attend, queries[:, :, own], keys[:, :, its], values[:, :, its], mask, self.group, shift, extra)
            for own, its, shift in sides
        ]
        mixed, maps = zip(*halves, strict=True)
        return jnp.concatenate(mixed, axis=2), None if maps[0] is None else jnp.concatenate(maps, axis=1)


def _in_groups(attend, queries, keys, values, mask, group, shift, extra):
    """Attention among the tokens of each group alone and to the first `extra` keys, which belong to all."""
    batch, time = queries.shape[:2]
    behind = -(time + shift) % group
    count = (time + shift + behind) // group

    def grouped(x):
        x = jnp.pad(x, ((0, 0), (shift, behind)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(batch * count, group, *x.shape[2:])

    def with_extra(x):
        if not extra:
            return grouped(x)
        shared = jnp.repeat(x[:, :extra], count, axis=0)
        return jnp.concatenate([shared, grouped(x[:, extra:])], axis=1)

    inside = _mask_of_groups(mask, batch, time, extra, grouped, group)
    mixed, maps = attend(grouped(queries), with_extra(keys), with_extra(values), inside)
    mixed = mixed.reshape(batch, count * group, *mixed.shape[2:])[:, shift : shift + time]
    return mixed, None if maps is None else _whole_maps(maps, batch, shift, time, extra)


def _whole_maps(maps, batch, shift, time, extra):
    """Maps over all keys, zero outside a query's group, of those within groups."""
    heads, group = maps.shape[1:3]
    maps = jnp.moveaxis(maps.reshape(batch, -1, heads, group, extra + group), 2, 1)
    count = maps.shape[2]
    own = jnp.einsum("bhcqk,cs->bhcqsk", maps[..., extra:], jnp.eye(count, dtype=maps.dtype))
    own = own.reshape(batch, heads, count * group, count * group)[..., shift : shift + time]
    shared = maps[..., :extra].reshape(batch, heads, count * group, extra)
    return jnp.concatenate([shared, own], axis=-1)[:, :, shift : shift + time]


def _mask_of_groups(mask, batch, time, extra, grouped, group) -> Mask:
    real = grouped(jnp.ones((batch, time), bool))[:, None, None, :]
    if mask.allowed is None and mask.window is None and not extra:
        return Mask(real, mask.causal)
    allowed = mask.explicit(time, time + extra).allowed
    allowed = jnp.ones((1, 1, 1, time + extra), bool) if allowed is None else allowed
    allowed = jnp.broadcast_to(allowed[:, 0], (batch, time, time + extra))
    # Of each query the keys of its own group: group the queries, then the keys, and keep where the groups agree.
    count = real.shape[0] // batch
    rows = grouped(allowed).reshape(batch, count, group, time + extra)
    shared, own = rows[..., :extra], rows[..., extra:].reshape(batch, count * group, time)
    own = grouped(jnp.swapaxes(own, 1, 2)).reshape(batch, count, group, count, group)
    own = jnp.einsum("bcscq->bcqs", own)
    joined = jnp.concatenate([shared, own], axis=-1)
    return Mask(joined.reshape(batch * count, 1, group, extra + group))


@register(
    "attention",
    paper="Chen et al. 2023, arXiv:2309.12307, section 3.2 and algorithm 1",
    example=lambda problem: shifted_sparse(group=4),
    neutral="the size of its groups is a matter of shapes and can't change while training",
)
def shifted_sparse(group: int, in_evaluation: bool = False, *, name: str = "attention.shifted_sparse") -> Method:
    """Trains with attention within groups of tokens, the groups of half the heads shifted by half a group.

    Heads of the first half attend within tokens ``[n · group, (n + 1) · group)``, those of the second half within
    groups shifted by ``group / 2``, so that what one half can't see across a border the other can. Attention
    costs ``time · group`` in place of ``time²``. The tokens of the first and the last shifted half-group stay
    apart (the authors' code lets the sequence's start see its end). Evaluation and generation attend in full,
    as in the paper, so the model that is saved is an ordinary one.

    Args:
      group: tokens, even; from twice the length of the sequence on it changes nothing.
      in_evaluation: attend within groups there too.
      name: the method's name.

    Raises:
      ValueError: a group that is not even or below 2; at init, a model without attention.

    Example:
      >>> shifted_sparse(2048).name
      'attention.shifted_sparse'
    """
    if group < 2 or group % 2:
        raise ValueError(f"{name} has group {group}; give it an even number of tokens")

    def surgery(params, key):
        places(params, name)
        return params

    def view(params, context):
        if not (context.train or in_evaluation):
            return params
        return {**params, "model": _everywhere(params, ShiftedGroups(group), name)}

    return Method(name=name, surgery=surgery, view=view)
