"""Steps that raise the loss of no earlier task: GEM and A-GEM."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.quadratic import above
from ft_jax.core.state import Batch
from ft_jax.incremental.examples import layout, no_rows
from ft_jax.incremental.replay import insert, remembered, rows_like


@register(
    "incremental",
    paper="Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equations 8 and 11",
    example=lambda problem: gem(tasks=2, capacity=4, example=problem.whole),
    neutral=Neutral({}),
)
def gem(tasks: int, capacity: int, example: Batch, strength: float = 0.0, *, name: str = "incremental.gem") -> Method:
    """Turns each step so that, to first order, the loss on the memory of no earlier task rises.

    With ``G`` the gradients on the earlier tasks' memories and ``g`` the batch's, the optimizer gets
    ``g + v G``, ``v = argmin v G Gᵀ v / 2 + g Gᵀ v`` subject to ``v ≥ strength``: the nearest gradient with ``G g̃ ≥ 0``
    where strength is 0. A task's memory is a reservoir of its examples (the paper keeps the last). During the first
    task, it is the plain step.

    Args:
      tasks: how many there are in all; those beyond share the last memory.
      capacity: examples kept of each task.
      example: one batch as the whole composition trains on it; the names, types and shapes of the fields to remember.
      strength: the paper's memory strength γ, which pulls back towards the old tasks.
      name: the method's name; ``memory[name]`` is ``{"buffer", "seen", "task"}``, buffer and seen by task.

    Raises:
      ValueError: no task or no capacity.
      KeyError: in the first step, when the batch lacks a field of `example`.

    Example:
      >>> batch = {"x": jnp.zeros((2, 5)), "labels": jnp.zeros(2, jnp.int32)}
      >>> gem(3, 10, batch).memory(None, None)["buffer"]["x"].shape
      (3, 10, 5)
    """
    if tasks < 1 or capacity < 1:
        raise ValueError(f"{name} has {tasks} tasks and a capacity of {capacity}; give both at least 1")
    like = rows_like(example)

    def memory(params, key):
        buffer = jax.tree.map(lambda one: jnp.zeros((tasks, capacity, *one.shape[1:]), one.dtype), like)
        return {"buffer": buffer, "seen": jnp.zeros(tasks, jnp.int32), "task": jnp.int32(0)}

    def update(inner):
        def turned(gradients, state, params=None, *, event):
            own = event.memory[name]
            past = (jnp.arange(tasks) < own["task"]) & (own["seen"] > 0)
            # A memory that is not full yet repeats its examples.
            rows = jnp.arange(capacity) % jnp.clip(own["seen"], 1, capacity)[:, None]
            filled = jax.tree.map(lambda x: jax.vmap(lambda one, at: one[at])(x, rows), own["buffer"])
            old = jax.lax.map(event.gradient, filled)
            return inner.update(
                projected(gradients, old, past, event.hyper[name]["strength"]), state, params, event=event
            )

        return optax.GradientTransformationExtraArgs(inner.init, turned)

    def after_step(state, event):
        own = state.memory[name]
        at = jnp.minimum(own["task"], tasks - 1)
        key = jax.random.fold_in(event.key, digest(f"{name}/reservoir"))
        one = {"buffer": jax.tree.map(lambda x: x[at], own["buffer"]), "seen": own["seen"][at]}
        one = insert(one, remembered(event.batch, like, name), key)
        buffer = jax.tree.map(lambda x, new: x.at[at].set(new), own["buffer"], one["buffer"])
        return state.remember(name, {**own, "buffer": buffer, "seen": own["seen"].at[at].set(one["seen"])})

    def after_task(state, event):
        own = state.memory[name]
        return state.remember(name, {**own, "task": own["task"] + 1})

    return Method(
        name=name,
        hyper={"strength": strength},
        memory=memory,
        update=update,
        after_step=after_step,
        after_task=after_task,
        refuses=no_rows(name, layout(like)),
    )


def projected(gradients, old, past, strength):
    """``g + v G`` of `gem`.

    Args:
      gradients: a tree.
      old: the tree with a first axis of tasks.
      past: which of them constrain.
      strength: the lower bound of v.

    Example:
      >>> projected(jnp.array([1.0, 1.0]), jnp.array([[-1.0, 0.0]]), jnp.array([True]), 0.0).round(3).tolist()
      [0.0, 1.0]
    """

    def flat(leaf, lead):
        return leaf.reshape(*leaf.shape[:lead], -1).astype(jnp.float32)

    old = jax.tree.map(lambda x: jnp.where(past.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros_like(x)), old)
    matrices = [flat(leaf, 1) for leaf in jax.tree.leaves(old)]
    vectors = [flat(leaf, 0) for leaf in jax.tree.leaves(gradients)]
    gram = sum(m @ m.T for m in matrices)
    dots = sum(m @ g for m, g in zip(matrices, vectors, strict=True))
    # Free where nothing is violated: no rounding of a program whose answer is known.
    v = above(gram, dots, jnp.broadcast_to(jnp.asarray(strength, jnp.float32), dots.shape))
    v = jnp.where(past & (jnp.any(past & (dots < 0)) | (strength > 0)), v, 0.0)
    return jax.tree.map(lambda g, m: (g + jnp.tensordot(v, m.astype(jnp.float32), 1)).astype(g.dtype), gradients, old)


@register(
    "incremental",
    paper="Chaudhry et al. 2019, arXiv:1812.00420, equation 11",
    example=lambda problem: agem(capacity=6, size=4, example=problem.whole),
    neutral=Neutral({}),
)
def agem(capacity: int, size: int, example: Batch, *, name: str = "incremental.agem") -> Method:
    """Takes from each step's gradient what would raise the mean loss on examples of earlier tasks.

    With ``r`` the gradient on `size` examples of earlier tasks, ``g ← g - min(g·r, 0) / |r|² r``. They are drawn
    from a uniform sample of all earlier tasks, a reservoir frozen when a task ends. During the first task, it is the
    plain step.

    Args:
      capacity: examples that are kept.
      size: drawn in each step.
      example: one batch as the whole composition trains on it; the names, types and shapes of the fields to remember.
      name: the method's name; ``memory[name]`` is ``{"stream", "past"}``, each ``{"buffer", "seen"}``.

    Raises:
      ValueError: a capacity or size below 1.
      KeyError: in the first step, when the batch lacks a field of `example`.

    Example:
      >>> sorted(agem(10, 4, {"x": jnp.zeros((2, 5))}).memory(None, None))
      ['past', 'stream']
    """
    if capacity < 1 or size < 1:
        raise ValueError(f"{name} has capacity {capacity} and draws {size}; give both at least 1")
    like = rows_like(example)

    def memory(params, key):
        def empty():
            buffer = jax.tree.map(lambda one: jnp.zeros((capacity, *one.shape[1:]), one.dtype), like)
            return {"buffer": buffer, "seen": jnp.int32(0)}

        return {"stream": empty(), "past": empty()}

    def update(inner):
        def turned(gradients, state, params=None, *, event):
            past = event.memory[name]["past"]
            key = jax.random.fold_in(event.key, digest(name))
            rows = jax.random.randint(key, (size,), 0, jnp.clip(past["seen"], 1, capacity))
            old = event.gradient(jax.tree.map(lambda x: x[rows], past["buffer"]))
            old = jax.tree.map(lambda x: jnp.where(past["seen"] > 0, x, jnp.zeros_like(x)), old)
            dot, square = optax.tree.vdot(gradients, old), optax.tree.norm(old, squared=True)
            share = jnp.minimum(dot, 0.0) / jnp.where(square > 0, square, 1.0)
            turned = jax.tree.map(lambda g, r: (g - share * r).astype(g.dtype), gradients, old)
            return inner.update(turned, state, params, event=event)

        return optax.GradientTransformationExtraArgs(inner.init, turned)

    def after_step(state, event):
        own = state.memory[name]
        key = jax.random.fold_in(event.key, digest(f"{name}/reservoir"))
        return state.remember(name, {**own, "stream": insert(own["stream"], remembered(event.batch, like, name), key)})

    def after_task(state, event):
        own = state.memory[name]
        return state.remember(name, {**own, "past": jax.tree.map(jnp.copy, own["stream"])})

    return Method(
        name=name,
        memory=memory,
        update=update,
        after_step=after_step,
        after_task=after_task,
        refuses=no_rows(name, layout(like)),
    )
