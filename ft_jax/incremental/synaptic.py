"""Synaptic intelligence: weights held by what they did for the loss along the way."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "incremental",
    paper="Zenke, Poole and Ganguli 2017, arXiv:1703.04200, equations 3 to 5",
    example=lambda problem: synaptic_intelligence(),
    neutral=Neutral({"weight": 0.0}),
)
def synaptic_intelligence(
    weight: float = 0.1, damping: float = 0.1, *, name: str = "incremental.synaptic_intelligence"
) -> Method:
    """Holds the model's weights where earlier tasks left them, each by how much its path lowered their loss.

    Adds the term ``weight · Σ_i importance_i (params_i - anchor_i)²``. Along a task ``path_i ← path_i - g_i Δ_i``,
    with g the gradient without this penalty and Δ the update; when it ends,
    ``importance ← importance + path / ((params - anchor)² + damping)``, ``anchor ← params``
    and ``path ← 0``. No batches are needed at the end.

    Args:
      weight: of the penalty, c in the paper.
      damping: ξ in the paper.
      name: the method's name; ``memory[name]`` is ``{"path", "importance", "anchor"}``, like what learns of
        ``params["model"]``.

    Raises:
      ValueError: a damping that is not positive.

    Example:
      >>> synaptic_intelligence(weight=1.0).hyper
      {'weight': 1.0, 'damping': 0.1}
    """
    if not damping > 0:
        raise ValueError(f"{name} got damping={damping}; give a positive number, it divides where nothing has moved")

    def memory(params, key):
        zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params["model"])  # noqa: E731
        return {"path": zeros(), "importance": zeros(), "anchor": jax.tree.map(jnp.copy, params["model"])}

    def away(p, a):
        return p.astype(jnp.float32) - a.astype(jnp.float32)

    def loss(inner):
        def penalised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            own = context.memory[name]
            pulls = jax.tree.map(
                lambda i, p, a: jnp.sum(i * jnp.square(away(p, a))), own["importance"], params["model"], own["anchor"]
            )
            value = sum(jax.tree.leaves(pulls), start=jnp.float32(0))
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return penalised

    def after_step(state, event):
        own, weight = state.memory[name], state.hyper[name]["weight"]

        def along(path, g, u, p, i, a):
            penalty = 2 * weight * i * (away(p, a) - u.astype(jnp.float32))
            return path - (g.astype(jnp.float32) - penalty) * u.astype(jnp.float32)

        path = jax.tree.map(
            along,
            own["path"],
            event.gradients["model"],
            event.updates["model"],
            state.params["model"],
            own["importance"],
            own["anchor"],
        )
        return state.remember(name, {**own, "path": path})

    def after_task(state, event):
        own, damping, model = state.memory[name], state.hyper[name]["damping"], state.params["model"]
        importance = jax.tree.map(
            lambda i, path, p, a: i + path / (jnp.square(away(p, a)) + damping),
            own["importance"],
            own["path"],
            model,
            own["anchor"],
        )
        path = jax.tree.map(jnp.zeros_like, own["path"])
        return state.remember(name, {"path": path, "importance": importance, "anchor": jax.tree.map(jnp.copy, model)})

    return Method(
        name=name,
        hyper={"weight": weight, "damping": damping},
        memory=memory,
        loss=loss,
        after_step=after_step,
        after_task=after_task,
    )
