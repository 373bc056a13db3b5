"""O-LoRA: a low-rank update for each task, in directions that those of earlier tasks leave free."""

import dataclasses
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.adapters import Targets, adapt, as_targets, map_operators, owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import LowRank, shape


@register(
    "incremental",
    paper="Wang et al. 2023, arXiv:2310.14152, equations 7 and 8",
    example=lambda problem: o_lora(tasks=2, rank=2, alpha=4.0, also=("*/head/*",)),
    neutral="it replaces what learns by its factors, so no weight of the penalty trains like the step without it",
)
def o_lora(
    tasks: int,
    rank: int = 8,
    alpha: float = 16.0,
    weight: float = 0.5,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    *,
    name: str = "incremental.o_lora",
) -> Method:
    """Learns a low-rank update for each task beside those of the tasks before, which stay, in directions orthogonal to
    them.

    A weight ``w [inputs, outputs]`` becomes ``w + alpha / rank · Σ_t a_t @ b_t`` over all tasks, ``a_t [inputs, rank]``
    drawn from ``U(-1/√inputs, 1/√inputs)`` and ``b_t`` zero until task t trains it. In task t only ``a_t`` and ``b_t``
    move, and the term ``weight · Σ_{i < t} ‖a_iᵀ a_t‖²`` keeps what ``a_t`` reads of the inputs apart from what the
    earlier ones read. The authors' code takes absolute values where the paper has these squares.

    Args:
      tasks: how many there are in all; those beyond go on with the last update.
      rank, alpha: of each task's update.
      weight: λ₁ of the penalty.
      targets, also: as in `ft_jax.transfer.lora`. What is in `also` learns in all tasks.
      name: the method's name; ``memory[name]`` is ``{"task": int32}``.

    Raises:
      ValueError: no task or no rank; at init, patterns that fit nothing, or more directions in all than a weight has
        inputs, which could not be orthogonal.

    Example:
      >>> params = {"mlp": {"up": {"kernel": jnp.ones((8, 6))}}}
      >>> method = o_lora(tasks=3, rank=2)
      >>> method.surgery({"model": params}, jax.random.key(0))["model"]["mlp"]["up"]["kernel"].a.shape
      (8, 6)
    """
    if tasks < 1 or rank < 1:
        raise ValueError(f"{name} has {tasks} tasks of rank {rank}; give both at least 1")
    chosen, also = as_targets(targets), (also,) if isinstance(also, str) else tuple(also)
    width = tasks * rank

    def on(path, matrix, key):
        inputs, outputs = shape(matrix)
        if width > inputs:
            raise ValueError(
                f"{name} has {width} directions for {tasks} tasks, and {path} has {inputs} inputs; "
                "make rank or tasks less"
            )
        bound = 1 / math.sqrt(inputs)
        a = jax.random.uniform(key, (inputs, width), minval=-bound, maxval=bound)
        return LowRank(matrix, a, jnp.zeros((width, outputs)), jnp.float32(alpha / rank), owner=name)

    def surgery(params, key):
        require(params, also, name)
        return adapt(params, chosen, on, key, name)

    def current(memory):
        return jnp.arange(width) // rank == jnp.minimum(memory[name]["task"], tasks - 1)

    def view(params, context):
        scale = context.hyper[name]["alpha"] / rank

        def shown(operator):
            return dataclasses.replace(operator, scale=jnp.broadcast_to(scale, jnp.shape(operator.scale)))

        return {**params, "model": map_operators(shown, params["model"], name)}

    def loss(inner):
        def apart(params, batch, context):
            terms, outputs = inner(params, batch, context)
            now, value = current(context.memory), jnp.float32(0)
            before = jnp.arange(width) // rank < jnp.minimum(context.memory[name]["task"], tasks - 1)
            pairs = before[:, None] & now[None, :]

            def add(operator):
                nonlocal value
                products = jnp.einsum("...ij,...ik->...jk", operator.a, operator.a)
                value += jnp.sum(jnp.where(pairs, jnp.square(products), 0.0))
                return operator

            map_operators(add, params["model"], name)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return apart

    def only(tree, now):
        """A tree of gradients or updates with those of other tasks' factors at 0."""

        def masked(operator):
            return dataclasses.replace(
                operator,
                a=jnp.where(now, operator.a, 0).astype(operator.a.dtype),
                b=jnp.where(now[:, None], operator.b, 0).astype(operator.b.dtype),
            )

        return {**tree, "model": map_operators(masked, tree["model"], name)}

    def update(inner):
        def step(gradients, state, params=None, *, event):
            now = current(event.memory)
            updates, state = inner.update(only(gradients, now), state, params, event=event)
            # Decay and momentum would move what earlier tasks left.
            return only(updates, now), state

        return optax.GradientTransformationExtraArgs(inner.init, step)

    def after_task(state, event):
        return state.remember(name, {"task": state.memory[name]["task"] + 1})

    return Method(
        name=name,
        hyper={"alpha": alpha, "weight": weight},
        surgery=surgery,
        trainable=owned(name, ("a", "b"), also),
        memory=lambda params, key: {"task": jnp.int32(0)},
        view=view,
        loss=loss,
        update=update,
        after_task=after_task,
    )
