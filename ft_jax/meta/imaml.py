"""Implicit MAML: the gradient of where adaptation ends, whatever way it took."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params, combine
from ft_jax.meta.adaptation import Adaptation, difference, total
from ft_jax.meta.episodes import episodes, merged_part, over_tasks
from ft_jax.meta.maml import Inner

TOLERANCE = 1e-6
"""Share of the right side's norm at which conjugate gradients have converged."""


def conjugate_gradients(system: Callable[[Params], Params], right: Params, steps: int) -> Params:
    """``x`` with ``system(x) = right``, from 0 by at most `steps` iterations; it stays where it has converged.

    Hestenes and Stiefel 1952. Where a direction has no positive curvature, the steps end.

    Args:
      system: symmetric and linear.
      right: a tree of float32.
      steps: at most.

    Example:
      >>> conjugate_gradients(lambda x: jnp.array([2.0, 4.0]) * x, jnp.array([1.0, 1.0]), 2).round(4).tolist()
      [0.5, 0.25]
    """

    def dot(a, b):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)), start=jnp.float32(0))

    begin = dot(right, right)

    def step(_, carry):
        x, rest, along, size = carry
        image = system(along)
        curved = dot(along, image)
        goes = (size > TOLERANCE**2 * begin) & (curved > 0)
        length = jnp.where(goes, size / jnp.where(goes, curved, 1.0), 0.0)
        x = jax.tree.map(lambda x, d: x + length * d, x, along)
        rest = jax.tree.map(lambda r, d: r - length * d, rest, image)
        new = dot(rest, rest)
        turn = jnp.where(goes, new / jnp.where(goes, size, 1.0), 0.0)
        along = jax.tree.map(lambda r, d: jnp.where(goes, r + turn * d, d), rest, along)
        return x, rest, along, jnp.where(goes, new, size)

    zeros = jax.tree.map(jnp.zeros_like, right)
    return jax.lax.fori_loop(0, steps, step, (zeros, right, right, begin))[0]


@register(
    "meta",
    paper="Rajeswaran et al. 2019, arXiv:1909.04630, algorithms 1 and 2",
    needs=("support", "query"),
    example=lambda problem: imaml(inner_rate=0.02, inner_steps=2, strength=20.0, solver_steps=2),
    batch=episodes,
    neutral=Neutral({"inner_rate": 0.0, "strength": 1e12}, batch=merged_part),
)
def imaml(
    inner_rate: float = 0.01,
    inner_steps: int = 16,
    *,
    strength: float = 2.0,
    solver_steps: int = 5,
    evaluation_steps: int | None = None,
    optimizer: Inner = "sgd",
    adapts: tuple[str, ...] = ("*",),
    name: str = "meta.imaml",
) -> Method:
    """MAML by the implicit gradient: no memory and no derivatives of the inner steps.

    For each task ``adapted`` minimises ``Σ terms(adapted, support) + strength / 2 · |adapted - params|²`` from
    ``adapted = params``, and the gradient of the query's terms with respect to `params` is
    ``(I + H / strength)⁻¹ ∂ Σ terms(adapted, query) / ∂ adapted``, H the Hessian of the support's terms at `adapted`.
    Conjugate gradients solve it by products with H. It is exact where the inner steps have converged, and
    ``I + H / strength`` has to be positive: raise the strength where the loss curves down.

    Args:
      inner_rate: the inner optimizer's rate.
      inner_steps: how many inner steps training takes; enough to come near the minimum.
      strength: of the pull towards the start, the paper's λ.
      solver_steps: of conjugate gradients at most, each two gradients of the support's loss.
      evaluation_steps: how many steps an evaluation takes, `inner_steps` by default, see `ft_jax.meta.maml`.
      optimizer: of the inner steps.
      adapts: patterns of the paths that adapt to a task; what else learns has the query's plain gradient.
      name: the method's name.

    Raises:
      ValueError: a strength that is not above 0, fewer than one step of the solver; and as `ft_jax.meta.maml`.
      KeyError: as `ft_jax.meta.maml`.

    Example:
      >>> imaml(strength=0.5).hyper
      {'strength': 0.5, 'inner_rate': 0.01, 'evaluation_steps': 16}
    """
    if not strength > 0 or solver_steps < 1:
        raise ValueError(
            f"{name} has strength {strength:g} and {solver_steps} steps of its solver; give a strength above 0 and at "
            "least 1 step"
        )
    inner = Adaptation(name, inner_steps, optimizer, tuple(adapts))

    def loss(plain):
        def slope(adapting, rest, support, context, number):
            value = total(plain, support, context)
            return jax.grad(lambda adapting: value(combine(adapting, rest), number))(adapting)

        @jax.custom_vjp
        def implicit(start, adapted, seen):
            """`adapted`, as a function of `start`."""
            return adapted

        def backward(kept, gradient):
            adapted, (rest, support, context) = kept
            weight = context.hyper[name]["strength"]
            _, curvature = jax.vjp(lambda adapting: slope(adapting, rest, support, context, inner.steps), adapted)

            def system(vector):
                typed = jax.tree.map(lambda v, a: v.astype(a.dtype), vector, adapted)
                return jax.tree.map(lambda v, h: v + h.astype(jnp.float32) / weight, vector, curvature(typed)[0])

            right = jax.tree.map(lambda g: g.astype(jnp.float32), gradient)
            found = conjugate_gradients(system, right, solver_steps)
            return jax.tree.map(lambda x, g: x.astype(g.dtype), found, gradient), None, None

        implicit.defvjp(lambda start, adapted, seen: (adapted, (adapted, seen)), backward)

        def task(params, support, query, context):
            own, rest = inner.split(params)
            start, still = jax.lax.stop_gradient((own, rest))
            weight = context.hyper[name]["strength"]

            def pulled(adapting, number):
                found = slope(adapting, still, support, context, number)
                return jax.tree.map(lambda g, d: g + weight * d, found, difference(adapting, start))

            adapted = jax.lax.stop_gradient(inner.adapt(pulled, start, context))
            if context.train:
                adapted = implicit(own, adapted, (still, support, context))
            return plain(combine(adapted, rest), query, context)

        return over_tasks(name, plain, task)

    numbers = {"strength": strength, **inner.numbers(inner_rate, evaluation_steps)}
    return Method(name=name, hyper=numbers, loss=loss, gives="episodes", refuses=inner.refuses)
