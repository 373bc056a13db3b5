"""Optimizer state in a low-rank subspace of the gradients."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.adapters import adapt, as_targets
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import STACKED, map_with_path, paths
from ft_jax.core.weights import shape


class GaLoreState(NamedTuple):
    """Bases of the subspaces by path, ``[narrower side, rank]``, and the state of the optimizer inside them."""

    bases: dict[str, Array]
    inner: Any


@register(
    "transfer",
    paper="Zhao et al. 2024, arXiv:2403.03507, algorithm 2",
    example=lambda problem: galore(rank=2, gap=2, targets="mlp"),
    neutral="its subspace is narrower than the gradient's, so no number makes it the plain optimizer",
)
def galore(
    rank: int = 128,
    gap: int = 200,
    scale: float = 0.25,
    targets: str | Iterable[str] = "all-linear",
    *,
    name: str = "transfer.galore",
) -> Method:
    """Every weight learns, but the optimizer sees gradients of matrices in a subspace, which makes its state small.

    For a gradient ``g [m, n]`` with ``m <= n``, every `gap` steps ``p [m, rank]`` becomes the first left singular
    vectors of ``g``; the composition's optimizer (Adam, say) gets ``p.T @ g [rank, n]`` and its update ``u`` comes
    back as ``scale · p @ u``. Where ``m > n``, the right singular vectors are taken and ``g @ p``. As in the authors'
    code the optimizer's moments stay as they are when the subspace changes. A decoupled weight decay of the optimizer
    acts inside the subspace.

    `optax.contrib.galore` is not used: it projects the wider side, which makes another state than the paper's, and its
    optimizer can't take a learning rate from the state.

    Args:
      rank: of the subspaces; matrices with a side of at most `rank` are left as they are, as are those that an adapter
        has frozen.
      gap: steps between two subspaces; T in the paper. A number of the program, not of the state, so that members of
        one program make their decompositions in these steps alone.
      scale: of the updates that come back, data in ``hyper``; alpha in the paper.
      targets: which projections, as for `ft_jax.transfer.lora`. Other leaves learn by the plain optimizer.
      name: the method's name.

    Raises:
      ValueError: a rank or gap below 1; composed outside `ft_jax.adaptive.schedule_free`; at init, targets that are no
        weight of the model, or none wider than `rank`.

    Example:
      >>> method = galore(rank=2)
      >>> inner = optax.with_extra_args_support(optax.scale_by_adam())
      >>> params = {"model": {"up": {"kernel": jnp.ones((4, 6))}}}
      >>> state = method.update(inner).init(params)
      >>> state.inner.mu["model"]["up"]["kernel"].shape
      (2, 6)
    """
    if rank < 1:
        raise ValueError(f"{name} has rank {rank}; give it at least 1")
    if gap < 1 or gap != int(gap):
        raise ValueError(f"{name} has gap {gap}; give it a whole number of steps, at least 1")
    gap = int(gap)
    targets = as_targets(targets)

    def projected(path, leaf):
        axes = leaf.shape[1:] if STACKED in path else leaf.shape
        return len(axes) == 2 and min(axes) > rank and targets.fits(path)

    def per_layer(path, function):
        return jax.vmap(function) if STACKED in path else function

    def down(bases, tree):
        return map_with_path(
            lambda path, leaf: per_layer(path, into)(leaf, bases[path]) if path in bases else leaf, tree
        )

    def surgery(params, key):
        def check(path, weight, key):
            sides.append(min(shape(weight)))
            return weight

        sides: list[int] = []
        params = adapt(params, targets, check, key, name)
        if max(sides) <= rank:
            raise ValueError(
                f"{name} has rank {rank}, but the widest of {', '.join(targets.include)} has a side of {max(sides)}; "
                "choose a lower rank or other targets"
            )
        return params

    def update(inner):
        def init(params):
            sizes = {
                path: (*leaf.shape[:-2], min(leaf.shape[-2:]), rank)
                for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)
                if projected(path, leaf)
            }
            bases = {path: jnp.zeros(size, jnp.float32) for path, size in sizes.items()}
            return GaLoreState(bases, inner.init(down(bases, params)))

        def low_rank(gradients, state, params=None, *, event):
            known = dict(zip(paths(gradients), jax.tree.leaves(gradients), strict=True))

            def refresh():
                return {path: per_layer(path, lambda g: subspace(g, rank))(known[path]) for path in state.bases}

            due = event.step % gap == 0
            bases = jax.lax.cond(due, refresh, lambda: state.bases)
            small = None if params is None else down(bases, params)

            def up(path, u):
                back = per_layer(path, lambda u, basis: out_of(u, basis, known[path].shape[-2:]))(u, bases[path])
                return back.astype(known[path].dtype)

            def whole(given):
                """Parameters of the subspace, which the optimizer inside moved, in the whole space."""
                moved = map_with_path(lambda path, x: up(path, x) if path in bases else x, optax.tree.sub(given, small))
                return optax.tree.add(params, moved)

            def gradient(batch=None, *, params=None, by_term=False, **options):
                at = None if params is None else whole(params)
                found = event.gradient(batch, params=at, by_term=by_term, **options)
                return {term: down(bases, tree) for term, tree in found.items()} if by_term else down(bases, found)

            inside = dataclasses.replace(event, gradient=gradient, value_at=lambda given: event.value_at(whole(given)))
            updates, inner_state = inner.update(down(bases, gradients), state.inner, small, event=inside)

            def scaled(path, u):
                return event.hyper[name]["scale"].astype(u.dtype) * up(path, u) if path in bases else u

            return map_with_path(scaled, updates), GaLoreState(bases, inner_state)

        return optax.GradientTransformationExtraArgs(init, low_rank)

    def refuses(parts):
        inside = parts[[part.name for part in parts].index(name) + 1 :]
        # What settles on other parameters than it trains, and is no choice among several, steps from their average.
        averaging = [one.name for one in inside if one.update and one.settle and not one.lift]
        if not averaging:
            return None
        return (
            f"{averaging[0]} steps from an average of whole parameters, and {name} outside it would hand it those of a "
            f"subspace; name {averaging[0]} before {name}"
        )

    return Method(name=name, hyper={"scale": scale}, surgery=surgery, update=update, refuses=refuses)


def subspace(gradient: Float[Array, "m n"], rank: int) -> Float[Array, "side rank"]:
    """The first singular vectors of the narrower side: left ones where ``m <= n``, else right ones.

    Their signs, which a decomposition leaves open and moments depend on, make each one's largest entry positive.
    """
    u, _, vh = jnp.linalg.svd(gradient.astype(jnp.float32), full_matrices=False)
    basis = u[:, :rank] if gradient.shape[0] <= gradient.shape[1] else vh[:rank].T
    largest = jnp.take_along_axis(basis, jnp.argmax(jnp.abs(basis), axis=0)[None], axis=0)
    return basis * jnp.sign(largest)


def into(matrix: Float[Array, "m n"], basis: Float[Array, "side rank"]) -> Array:
    """A matrix in the subspace, ``[rank, n]`` or ``[m, rank]``."""
    return basis.T @ matrix if matrix.shape[0] <= matrix.shape[1] else matrix @ basis


def out_of(update: Array, basis: Float[Array, "side rank"], shape: tuple[int, int]) -> Float[Array, "m n"]:
    """A matrix of the subspace in the whole space of matrices of `shape`."""
    return basis @ update if shape[0] <= shape[1] else update @ basis.T
