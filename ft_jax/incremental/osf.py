"""Weights that learn in the directions that matter least to what they know."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, adapt, as_targets, map_operators, map_operators_with_path, owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, materialize
from ft_jax.core.weights.operator import operator

ROUNDS = ("transfer.quantize", "transfer.loftq")
"""Methods that leave codes in place of a matrix."""
TAKES_APART = ("transfer.pissa", "transfer.olora")
"""Methods that put another matrix in the stored one's place."""


@operator("owner")
class Decomposed(Weight):
    """``u @ diag(s) @ v`` in place of a matrix: all of its singular directions, the largest first."""

    u: Float[Array, "inputs directions"]
    s: Float[Array, " directions"]
    v: Float[Array, "directions outputs"]
    owner: str = ""

    def matmul(self, x, bias=None):
        u, s, v = (part.astype(x.dtype) for part in (self.u, self.s, self.v))
        y = ((x @ u) * s) @ v
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        return (self.u * self.s[..., None, :]) @ self.v

    @property
    def shape(self):
        return (*self.u.shape[:-1], self.v.shape[-1])


@register(
    "incremental",
    paper="Nayak et al. 2025, arXiv:2504.07097, section 3.2; with one share for all weights it is peft's OSF",
    example=lambda problem: osf(keep=0.5, least=0.1, also=("*/head/*",)),
    neutral="it learns in fewer directions than the step without it, whatever share it keeps",
)
def osf(
    keep: float = 0.5,
    growth: float = 0.0,
    least: float | None = None,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    name: str = "incremental.osf",
) -> Method:
    """Orthogonal subspace fine-tuning: weights learn in full rank, but for the directions that earlier tasks use most.

    A weight ``w [inputs, outputs]`` is kept as ``u @ diag(s) @ v``, its singular value decomposition. Of its
    ``min(inputs, outputs)`` directions the first ``⌊keep · min⌋``, ``u₁ s₁ v₁``, stay as they are. The others learn,
    orthogonal to those: gradients, and updates after the optimizer has made them, become ``Δu₂ - u₁ u₁ᵀ Δu₂`` and
    ``Δv₂ - Δv₂ v₁ᵀ v₁``. When a task ends the weight is decomposed anew, and `keep` grows. peft projects the gradients
    alone, after which Adam's steps leave the subspace; under SGD the two are one.

    With `least` each weight has a share of its own from the first task's end on, as in the paper:

        share = least + importance · (keep - least),   importance = mean cos(x, w x) over the task's positions,

    the importances divided by their mean over all weights, so that `keep` is about the mean share; below 0 they count
    as 0, and shares end at 1. A weight whose inputs and outputs have different widths has no such cosine and keeps the
    share `keep`. Positions of padding count as well.

    The factors take ``min · (inputs + outputs)`` numbers, twice a square matrix, and so do the optimizer's moments,
    which stay as they are when a weight is decomposed anew.

    Args:
      keep: the share of directions that stay, data in ``hyper``.
      growth: what is added to `keep` at the end of a task, up to 1 in all.
      least: the share of a weight whose outputs are not at all like its inputs (0.1 in the paper, which has 0.8 for
        `keep`); None gives all of them `keep`.
      targets, also: as in `ft_jax.transfer.lora`. What is in `also` learns freely.
      name: the method's name.

    Raises:
      ValueError: shares outside 0 to 1, `least` above `keep`; composed with a method that quantises, or inside one that
        takes the stored matrix apart; at init, patterns that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.diag(jnp.array([1.0, 3.0]))}}}}
      >>> kernel = osf().surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.s.tolist(), jnp.abs(materialize(kernel)).round(4).tolist()
      ([3.0, 1.0], [[1.0, 0.0], [0.0, 3.0]])
    """
    if not (0 <= keep <= 1 and 0 <= growth <= 1):
        raise ValueError(f"{name} has keep {keep} and growth {growth}; give shares from 0 to 1")
    if least is not None and not 0 <= least <= keep:
        raise ValueError(f"{name} has least {least} and keep {keep}; give least a share from 0 to keep")
    chosen, also = as_targets(targets), (also,) if isinstance(also, str) else tuple(also)

    def surgery(params, key):
        require(params, also, name)
        return adapt(params, chosen, lambda path, weight, key: _innermost(weight, name), key, name)

    def memory(params, key):
        """What is added to `keep` for each weight's own share."""
        found = _operators(params, name)
        return {path: jnp.zeros(one.s.shape[:-1]) for path, one in found.items() if one.s is not None}

    def project(tree, params, keep, more):
        """Gradients or updates with those of each operator in its free directions alone."""
        standing = _operators(params, name)

        def free(path, change):
            share = keep if path not in more else jnp.clip(keep + more[path], 0.0, 1.0)[..., None]
            return _free(standing[path], change, share)

        return {**tree, "model": map_operators_with_path(free, tree["model"], name)}

    def update(inner):
        def step(gradients, state, params=None, *, event):
            shares = event.hyper[name]["keep"], event.memory.get(name, {})
            updates, state = inner.update(project(gradients, params, *shares), state, params, event=event)
            # Decay, momentum and Adam's scaling leave the free directions again.
            return project(updates, params, *shares), state

        return optax.GradientTransformationExtraArgs(inner.init, step)

    def after_task(state, event):
        numbers = state.hyper[name]
        anew = lambda one: one if one.u is None else decomposed(one.materialize(), name)  # noqa: E731
        model = map_operators(anew, state.params["model"], name)
        share = jnp.minimum(numbers["keep"] + numbers["growth"], jnp.maximum(numbers["keep"], 1.0))
        hyper = {**state.hyper, name: {**numbers, "keep": share}}
        if least is not None:
            own = _importances(state, event, name)
            state = state.remember(
                name,
                {
                    path: (own[path] - 1.0) * (share - numbers["least"]) if path in own else jnp.zeros_like(before)
                    for path, before in state.memory[name].items()
                },
            )
        return state.replace(params={**state.params, "model": model}, hyper=hyper)

    def refuses(parts):
        names = [part.name for part in parts]
        wrong = [one for one in names if one in ROUNDS or (one in TAKES_APART and names.index(one) < names.index(name))]
        if not wrong:
            return None
        remedy = "leave one of them out" if wrong[0] in ROUNDS else f"name {name} outside of it"
        return f"{wrong[0]} works on the stored matrix, and {name} keeps its singular directions in its place; {remedy}"

    return Method(
        name=name,
        hyper={"keep": keep, "growth": growth, **({} if least is None else {"least": least})},
        surgery=surgery,
        trainable=owned(name, ("u", "s", "v"), also),
        memory=None if least is None else memory,
        update=update,
        after_task=after_task,
        refuses=refuses,
    )


def decomposed(matrix: Float[Array, "... inputs outputs"], owner: str) -> Decomposed:
    """A matrix as its singular value decomposition, of which every leaf has the matrix's type."""
    u, s, v = jnp.linalg.svd(matrix.astype(jnp.float32), full_matrices=False)
    return Decomposed(*(part.astype(matrix.dtype) for part in (u, s, v)), owner=owner)


@operator("owner")
class Watched(Weight):
    """A weight whose probe's gradient is ``[..., 2]``: the sum over positions of ``cos(x, w x)``, and how many."""

    base: Any
    probe: Float[Array, " 2"]
    owner: str = ""

    def matmul(self, x, bias=None):
        y = _watch(self.base.matmul(x), x, self.probe)
        return y if bias is None else y + bias.astype(y.dtype)

    def materialize(self):
        return self.base.materialize()

    @property
    def shape(self):
        return self.base.shape


@jax.custom_vjp
def _watch(y, x, probe):
    return y


def _cosines(saved, cotangent):
    y, x = (one.astype(jnp.float32) for one in saved)
    lengths = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    told = jnp.stack([jnp.sum(jnp.sum(x * y, axis=-1) / jnp.maximum(lengths, 1e-12)), jnp.float32(lengths.size)])
    return cotangent, jnp.zeros_like(saved[1]), told


_watch.defvjp(lambda y, x, probe: (y, (y, x)), _cosines)


def _importances(state: Any, event: Any, name: str) -> dict[str, Array]:
    """How alike the inputs and outputs of every square weight are on a task's examples, over their mean."""
    probes = {
        path: jnp.zeros((*one.s.shape[:-1], 2))
        for path, one in _operators(state.params, name).items()
        if one.s is not None and one.u.shape[-2] == one.v.shape[-1]
    }

    def told(probes, batch):
        def watched(path, weight):
            return Watched(weight, probes[path], name) if path in probes else weight

        def view(params, context):
            seen = event.context.view(params, context)
            return {**seen, "model": map_operators_with_path(watched, seen["model"], name)}

        terms, _ = event.loss(state.params, batch, event.context.replace(view=view))
        return sum(terms.values(), start=jnp.float32(0))

    def add(sums, batch):
        return jax.tree.map(jnp.add, sums, jax.grad(told)(probes, batch)), None

    sums, _ = jax.lax.scan(add, probes, dict(event.batches))
    found = {path: jnp.maximum(one[..., 0] / jnp.maximum(one[..., 1], 1.0), 0.0) for path, one in sums.items()}
    mean = jnp.mean(jnp.concatenate([jnp.ravel(one) for one in found.values()] or [jnp.ones(1)]))
    return {path: one / jnp.maximum(mean, 1e-12) for path, one in found.items()}


def _operators(tree: Any, name: str) -> dict[str, Decomposed]:
    """A method's operators by the path of their weight."""
    found: dict[str, Decomposed] = {}

    def visit(path, weight):
        found[path] = weight
        return weight

    map_operators_with_path(visit, tree["model"], name)
    return found


def _innermost(weight: Any, owner: str) -> Any:
    if isinstance(weight, Weight) and hasattr(weight, "base"):
        return dataclasses.replace(weight, base=_innermost(weight.base, owner))
    return decomposed(materialize(weight), owner)


def _free(now: Decomposed, change: Decomposed, keep: Float[Array, "..."]) -> Decomposed:
    """A gradient or update of the factors without what is of the directions that stay, or along them."""
    if change.u is None:  # Another method lets the weight be.
        return change
    count = now.s.shape[-1]
    # A share such as 0.7 of 10 is 7 and not 6.9999998.
    stays = jnp.arange(count) < jnp.floor(keep * count + 1e-4)
    along_u, along_v = stays[..., None, :], stays[..., :, None]
    u, s, v = (part.astype(jnp.float32) for part in (change.u, change.s, change.v))
    held_u = jnp.where(along_u, now.u, 0).astype(jnp.float32)
    held_v = jnp.where(along_v, now.v, 0).astype(jnp.float32)
    u = u - held_u @ (jnp.swapaxes(held_u, -1, -2) @ u)
    v = v - (v @ jnp.swapaxes(held_v, -1, -2)) @ held_v
    u, s, v = jnp.where(along_u, 0, u), jnp.where(stays, 0, s), jnp.where(along_v, 0, v)
    return dataclasses.replace(
        change, u=u.astype(change.u.dtype), s=s.astype(change.s.dtype), v=v.astype(change.v.dtype)
    )
